"""The data that a lower precision is scored and calibrated on, and the options of it."""

import argparse
from pathlib import Path

import pytest
import torch
from PIL import Image

from scenewise.apps.cli import main
from scenewise.apps.export.gate import gate_of
from scenewise.data import Scenes
from scenewise.errors import UserError
from scenewise.models import Segmenter, create_model

CONFIG = """\
data: {format: scenes, scenes_train: 4, scenes_val: 3, scenes_size: [32, 48], crop_size: 32}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder on generated scenes, of a network that was not trained."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    model = create_model("fcn", classes=Scenes(1).classes, backbone="tiny")
    model.save_pretrained(folder)
    (folder / "config.yaml").write_text(CONFIG)
    return folder


def options(run: Path, **changed) -> argparse.Namespace:
    given = {"data": None, "calibrate": None, "precision": "int8", "max_drop": 0.5}
    return argparse.Namespace(model=str(run), **(given | changed))


def test_the_data_of_the_run_scores_and_calibrates(run) -> None:
    model = Segmenter.from_pretrained(run)
    gate = gate_of(options(run), model)
    assert (gate.images, len(gate.calibration), gate.max_drop) == (3, 4, 0.5)
    train, val = Scenes(4, (32, 48), 0), Scenes(3, (32, 48), 2**31)
    assert torch.equal(gate.calibration[3], train[3]["image"])
    truth = iter([val[i]["mask"].long() for i in (0, 2)])
    assert gate.score(lambda image: next(truth), [0, 2]) == (100.0, [1.0, 1.0])
    score, each = gate.score(lambda image: torch.zeros(image.shape[1:], dtype=torch.long), [1])
    share = (val[1]["mask"] == 0).double().mean().item()
    assert each == [pytest.approx(share)]
    assert score < 100 * share


def test_other_images_calibrate(run, tmp_path: Path) -> None:
    for i in range(3):
        Image.new("RGB", (9, 7), (i, 0, 0)).save(tmp_path / f"{i}.png")
    gate = gate_of(options(run, calibrate=tmp_path), Segmenter.from_pretrained(run))
    assert [int(image[0, 0, 0]) for image in gate.calibration] == [0, 1, 2]


def test_a_model_without_its_data_needs_data(run, model_folder) -> None:
    model = Segmenter.from_pretrained(model_folder)
    with pytest.raises(UserError, match="is not a run folder, so its data is unknown; give"):
        gate_of(options(model_folder), model)
    with pytest.raises(UserError, match="the data has the classes"):
        gate_of(options(run), model)


def test_fp16_of_a_run_prints_both_scores(run, tmp_path: Path, capsys) -> None:
    file = tmp_path / "a.xml"
    words = ["--precision", "fp16", "--size", "32", "48", "--max-drop", "100"]
    assert main(["export", str(run), str(file), *words]) == 0
    output = capsys.readouterr().out
    assert "score     mIoU " in output
    assert "images: float32 (1, 3, 32, 48), normalised" in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.xml"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.onnx", "--data", "x"], "--data is for --precision fp16 or int8"),
        (["a.onnx", "--precision", "fp16", "--calibrate", "x"], "--calibrate is for --precision "),
        (["a.onnx", "--precision", "fp16", "--max-drop", "-1"], "--max-drop -1.0 is not a number"),
        (["a.pt2", "--precision", "fp16"], "--precision fp16 is for .onnx and .xml files"),
        (["a", "--size", "8", "8"], "--size 8 8 is for files with a graph"),
        (["a.xml", "--precision", "int4"], "--precision"),
    ],
)
def test_options_that_do_not_fit(words, message, run, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run), *words]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
