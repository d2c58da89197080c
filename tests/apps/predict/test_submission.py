"""Submissions to test servers: ids, names, palettes; other classes are rejected."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise.apps.cli import main
from scenewise.apps.predict.submission import _CLASSES, save_submission
from scenewise.models import load_model
from tests.toy_model import random_danet

# The evaluation server's ids, copied from the dataset's own table of labels.
IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
NAMES = {"cityscapes": "berlin_000000_000019_leftImg8bit", "voc": "2008_000006"}


def stored(folder: Path, server: str) -> Path:
    subfolder = "results/VOC2012/Segmentation/comp6_test_cls" if server == "voc" else "."
    return folder / subfolder / f"{NAMES[server]}.png"


def test_cityscapes_takes_the_ids_of_the_full_table(tmp_path: Path) -> None:
    labels = torch.arange(19).reshape(1, 19)
    file = save_submission("cityscapes", tmp_path, NAMES["cityscapes"], labels)
    assert file == stored(tmp_path, "cityscapes")
    with Image.open(file) as image:
        assert image.mode == "L"
        assert np.asarray(image).tolist() == [IDS]


def test_voc_takes_indices_with_its_palette(tmp_path: Path) -> None:
    labels = torch.arange(21).reshape(3, 7)
    file = save_submission("voc", tmp_path, NAMES["voc"], labels)
    assert file == stored(tmp_path, "voc")
    with Image.open(file) as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), labels.numpy())
        palette = image.getpalette()
    assert palette is not None
    assert palette[: 3 * 3] == [0, 0, 0, 128, 0, 0, 0, 128, 0]  # background, aeroplane, bicycle


@pytest.mark.parametrize("server", ["cityscapes", "voc"])
def test_predict_writes_a_submission(server: str, tmp_path: Path) -> None:
    random_danet(_CLASSES[server]).save_pretrained(tmp_path / "model")
    size = (23, 41)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    image, out = tmp_path / f"{NAMES[server]}.png", tmp_path / "out"
    Image.fromarray(pixels).save(image)
    words = ["--model", str(tmp_path / "model"), "--out", str(out), "--device", "cpu"]
    assert main(["predict", str(image), *words, "--submission", server]) == 0
    with Image.open(out / "labels" / image.name) as labels:
        ids = np.asarray(labels)
    with Image.open(stored(out / "submission", server)) as sent:
        table = np.array(IDS) if server == "cityscapes" else np.arange(21)
        assert np.array_equal(np.asarray(sent), table[ids])


def test_other_classes_are_rejected(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = tmp_path / "a.png", tmp_path / "out"
    Image.new("RGB", (16, 16)).save(image)
    words = ["--model", str(model_folder), "--out", str(out), "--submission", "voc"]
    assert main(["predict", str(image), *words]) == 2
    stderr = capsys.readouterr().err
    assert "not the 21 of voc" in stderr
    assert len(load_model(model_folder).classes) == 3
    assert not out.exists()
