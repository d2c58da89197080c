"""``scenewise test --choose_thresholds``: what is stored, printed and refused."""

import json
import shutil
from pathlib import Path

import pytest

from scenewise.apps.cli import main
from scenewise.classes import Classes
from scenewise.data import SegmentationData
from scenewise.inference.quality import quality_predictor
from scenewise.models import load_model
from scenewise.training.callbacks.choose_thresholds import ChooseThresholds
from scenewise.training.thresholds import ThresholdScores, ThresholdSearch
from tests.apps.fit.test_fit import metrics, one_line, write_images
from tests.toy_model import random_danet

CLASSES = Classes(("red", "green", "blue"), ((9, 0, 0), (0, 9, 0), (0, 0, 9)))
OPTIONS = ["--data.format", "folder", "--data.num_workers", "0", "--trainer.accelerator", "cpu"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    write_images(root, {"train": 1, "val": 2, "test": 2})
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "danet"
    random_danet(CLASSES).save_pretrained(folder)
    return folder


def test_thresholds_are_chosen_on_the_validation_images(
    trained: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, runs = shutil.copytree(trained, tmp_path / "run"), tmp_path / "runs"
    words = ["test", str(images), "--model", str(run), "--trainer.default_root_dir", str(runs)]
    words += [*OPTIONS, "--quality", "good"]
    assert main([*words, "--name", "plain"]) == 0
    before = capsys.readouterr().out
    assert main([*words, "--name", "chosen", "--choose-thresholds"]) == 0
    folder, printed = runs / "chosen" / "version_0", capsys.readouterr().out
    assert metrics(folder) == metrics(runs / "plain" / "version_0")  # a test reports the same
    assert "with the thresholds" not in before
    assert "test, after" in printed
    assert "mIoU of the tested images" in printed
    assert "warning" not in printed

    model, data = load_model(run), SegmentationData("folder", str(images))
    search = ThresholdSearch(model.classes)
    scores = ThresholdScores(search)
    predictor = quality_predictor(model, "good", fast=False)
    for split, counts in (("val", search), ("test", scores)):
        for sample in data.dataset(split):
            counts.add(predictor.scores(sample["image"])[None], sample["mask"][None])
    assert model.thresholds == search.thresholds()
    written = json.loads((folder / "thresholds.json").read_text())
    about = written.pop("about")
    assert written == scores.to_dict()
    assert written["miou"]["before"] == metrics(folder)["test"]["miou"]
    assert about["data"] == metrics(folder)["about"]["data"]
    assert about["chosen_on"]["split"] == "val"


def test_the_same_images_for_both_are_warned_of(trained: Path, images: Path) -> None:
    callback = ChooseThresholds(trained)
    callback.scores = ThresholdScores(ThresholdSearch(CLASSES))
    for split, warned in (("test", False), ("val", True)):
        data = SegmentationData("folder", str(images), test_split=split)
        text = " ".join(callback.sentences(data))
        assert ("warning: they were chosen on the images that are scored here" in text) == warned
        assert f"thresholds stored in '{trained / 'config.json'}'" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["validate", "--model", "{run}"], "--choose_thresholds is an option of test, not of"),
        (["test", "--model", "{run}/model.safetensors"], "is not a folder with one; give"),
        (["test"], "stores them in a model; give --model"),
    ],
)
def test_where_thresholds_cannot_be_chosen(
    words: list[str],
    message: str,
    trained: Path,
    images: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = [word.format(run=trained) for word in words]
    options = ["--data.root", str(images), *OPTIONS, "--choose_thresholds"]
    assert message in one_line([*filled, *options], capsys)
    assert load_model(trained).thresholds == {}
