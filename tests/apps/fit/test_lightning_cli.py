"""Options of Trainer: 1 is one batch and 1.0 all of them, whatever was imported before."""

import inspect
from functools import wraps
from typing import Any, get_args

import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer

from scenewise.apps.cli import main
from scenewise.apps.fit.lightning_cli import _int_before_float


def declared(
    limit: float | int | None = None,
    often: str | float | int = "never",
    rate: float | None = None,
    steps: int = 1,
) -> None:
    """A function whose annotations have ``float`` first, as ``typing`` may return them."""


@wraps(declared)
def wrapped(*words: Any) -> None:
    declared(*words)


def test_one_is_an_int_and_1_0_a_float() -> None:
    _int_before_float(wrapped)
    parser = ArgumentParser()
    parser.add_function_arguments(declared)
    config = parser.parse_args(["--limit", "1", "--often", "1.0", "--rate", "1"])
    assert [type(config[name]) for name in ("limit", "often", "rate")] == [int, float, float]
    assert parser.parse_args(["--often", "daily"]).often == "daily"


def test_other_alternatives_keep_their_order() -> None:
    _int_before_float(declared)
    alternatives = {name: get_args(t) for name, t in declared.__annotations__.items()}
    assert alternatives["limit"] == (int, float, type(None))
    assert alternatives["often"] == (int, float, str)
    assert alternatives["rate"] == (float, type(None))
    assert declared.__annotations__["steps"] is int


def test_a_command_reorders_trainer(capsys: pytest.CaptureFixture[str]) -> None:
    annotations = inspect.unwrap(Trainer.__init__).__annotations__
    annotations["limit_val_batches"] = float | int | None
    assert main(["test", "--model.backbone", "tiny"]) == 2
    assert "nothing to test" in capsys.readouterr().err
    assert get_args(annotations["limit_val_batches"]) == (int, float, type(None))
