"""Factors of the classes: by hand, through ``fit``, and with a Trainer of one's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from scenewise import fit
from scenewise.data import Scenes
from scenewise.errors import UserError
from scenewise.training.balance import balanced_weights, class_balance
from scenewise.training.task import SegmentationTask
from tests.training.test_task import scenes


def test_by_hand() -> None:
    assert balanced_weights([400, 100, 25]) == [0.5, 1.0, 2.0]
    assert balanced_weights([0, 0]) == [1.0, 1.0]
    assert balanced_weights([10**9, 10**9, 1]) == [1.0, 1.0, 10.0]  # bounded


def test_pixels_are_those_of_the_training_images() -> None:
    dataset = Scenes(4, (32, 96))
    pixels = torch.stack([dataset.read(i)[1].flatten().bincount(minlength=256) for i in range(4)])
    assert class_balance(dataset) == balanced_weights(pixels.sum(0)[:17].tolist())


def test_auto_is_chosen_recorded_and_kept_by_a_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"network": "fcn", "backbone": "tiny", "root": tmp_path}
    options |= {"class_weights": "auto", "logger": False, "accelerator": "cpu"}
    data = scenes()
    run = fit(data, max_steps=1, **options)
    expected = class_balance(data.dataset("train"))
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert config["model"]["class_weights"] == expected
    printed = capsys.readouterr().out
    assert f"({max(expected):.2g})" in printed.split(", most for ")[1].splitlines()[0]
    fit(scenes(), max_steps=2, resume="last", **options)
    assert "class_weights" not in capsys.readouterr().out  # nothing changed


def test_a_trainer_of_ones_own_needs_numbers() -> None:
    task = SegmentationTask(Scenes(1).classes, network="fcn", backbone="tiny", class_weights="auto")
    with pytest.raises(UserError, match="give numbers"):
        task.on_train_start()
    task.weigh_classes([2.0] * 17)
    assert task.class_weights is not None
    assert task.class_weights.tolist() == [2.0] * 17
