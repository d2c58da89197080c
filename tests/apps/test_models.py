import json
from typing import Any

import pytest

from scenewise import create_model, list_models
from scenewise.apps.cli import main
from scenewise.apps.models import STORED, compute_row
from scenewise.apps.options.models import SETTINGS
from scenewise.models.zoo import NETWORKS

TINY = ["models", "--backbone", "tiny", "--size", "64", "96", "--num-classes", "5"]


def output(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*TINY, *words]) == 0
    return capsys.readouterr().out


def test_table_has_a_row_for_each_network(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["fcn", "danet", "chain"]
    heading, *rows = output(capsys, *names).splitlines()
    assert heading.split()[:4] == ["network", "year", "stride", "parameters"]
    assert [row.split()[0] for row in rows] == names
    danet = create_model("danet", num_classes=5, backbone="tiny")
    assert rows[1].split()[1:4] == ["2019", "8", f"{sum(p.numel() for p in danet.parameters()):,}"]
    assert rows[1].endswith("position + channel; Fu et al., CVPR")
    assert rows[2].split()[1] == "-"


def test_json_holds_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = json.loads(output(capsys, "--json", "ccnet", "fcn"))
    assert [row["name"] for row in rows] == ["ccnet", "fcn"]
    ccnet, fcn = rows
    assert ccnet["variants"] == ["official", "mmseg"]
    assert ccnet["size"] == [64, 96]
    assert ccnet["gflops"] > fcn["gflops"] > 0
    assert ccnet["train_mb"] > ccnet["test_mb"] > 0


def test_all_networks_are_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every name, without an estimate of every network."""
    monkeypatch.setattr("scenewise.apps.models.compute_row", lambda name, _: {"name": name})
    rows = json.loads(output(capsys, "--json"))
    assert [row["name"] for row in rows] == list_models()


def test_the_stored_rows_are_what_is_computed(capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, run ``python -m bench.models``."""
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert [row["name"] for row in json.loads(STORED.read_text("utf-8"))] == list(NETWORKS)
    for name, network in NETWORKS.items():
        about = [rows[name][column] for column in ("paper", "year", "attention", "variants")]
        assert about == [network.paper, network.year, network.attention, list(network.variants)]
    for name in ("danet", "se"):  # a sample, as each takes a second
        assert compute_row(name, SETTINGS) == rows[name] | {
            "test_mb": pytest.approx(rows[name]["test_mb"], rel=0.02),  # PyTorch's own buffers
            "train_mb": pytest.approx(rows[name]["train_mb"], rel=0.02),
        }


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["danett"], "unknown network 'danett'; did you mean 'danet'? Choose one of"),
        (["--size", "8", "64"], "--size 8 64 is too small"),
        (["--batch", "1"], "--batch 1 is too small"),
        (["--backbone", "resnet999"], "unknown backbone 'resnet999'"),
        (["--num-classes", "0"], "needs classes"),
    ],
)
def test_bad_words_are_reported(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TINY, *words]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert sentence in error
