"""Images of equal size go through the network together, with the labels of one by one."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from scenewise.apps.cli import main
from scenewise.apps.predict import labeller
from scenewise.apps.predict.labeller import Labeller
from scenewise.inference.auto_window import AutoWindowPredictor
from scenewise.inference.predictor import Prediction

SIZES = [(41, 23)] * 5 + [(23, 41)] * 2 + [(41, 23)]  # (width, height), in the order of the names


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images of SIZES; the third is damaged."""
    folder, random = tmp_path / "images", np.random.default_rng(7)
    folder.mkdir()
    for index, (width, height) in enumerate(SIZES):
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    (folder / "2.png").write_bytes(b"damaged")
    return folder


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images that are labelled together."""
    seen: list[int] = []
    batch = AutoWindowPredictor.batch

    def counted(self: AutoWindowPredictor, images: list[Tensor]) -> list[Prediction] | None:
        seen.append(len(images))
        return batch(self, images)

    monkeypatch.setattr(AutoWindowPredictor, "batch", counted)
    return seen


def predict(images: Path, model: Path, out: Path, *words: str) -> dict[str, bytes]:
    """The files written, by name."""
    options = ["--model", str(model), "--out", str(out), "--device", "cpu", *words]
    assert main(["predict", str(images), *options]) == 2  # one image is damaged
    return {str(f.relative_to(out)): f.read_bytes() for f in out.rglob("*") if f.is_file()}


@pytest.mark.parametrize(
    ("words", "expected"), [(["--batch-size", "3"], [2, 2, 2]), ([], [])], ids=["3", "default"]
)
def test_labels_are_those_of_one_by_one(
    model_folder: Path,
    images: Path,
    tmp_path: Path,
    counts: list[int],
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    expected: list[int],
) -> None:
    alone = predict(images, model_folder, tmp_path / "alone", "--batch-size", "1", "--no-overlay")
    predict(images, model_folder, tmp_path / "together", "--no-overlay", *words)
    assert counts == expected
    assert len(alone) == len(SIZES) + 1  # without the damaged one; classes and ranking
    assert _pixels(tmp_path / "alone") == _pixels(tmp_path / "together")
    stderr = capsys.readouterr().err
    assert stderr.count("7 of 8 images labelled") == 2
    assert "2.png" in stderr


def _pixels(out: Path) -> dict[str, bytes]:
    pixels = {}
    for file in (out / "labels").iterdir():
        with Image.open(file) as labels:
            pixels[file.name] = labels.tobytes()
    return pixels


def test_an_accelerator_labels_some_together(
    model_folder: Path,
    images: Path,
    tmp_path: Path,
    counts: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its threads and batches, on the CPU; of each batch at most four images of this size."""
    alone = predict(images, model_folder, tmp_path / "alone")
    monkeypatch.setattr(Labeller, "_on_cpu", False)
    monkeypatch.setattr(labeller, "_BATCH_PIXELS", 4 * 41 * 23)
    together = predict(images, model_folder, tmp_path / "together")
    assert counts == [2, 2, 2]
    assert alone.keys() == together.keys()
    assert _pixels(tmp_path / "alone") == _pixels(tmp_path / "together")


@pytest.mark.parametrize("option", [["--flip"], ["--window", "16"], ["--scales", "0.5", "1"]])
def test_what_takes_several_passes_is_labelled_one_by_one(
    model_folder: Path, images: Path, tmp_path: Path, counts: list[int], option: list[str]
) -> None:
    predict(images, model_folder, tmp_path / "out", "--batch-size", "8", *option)
    assert counts == []


def test_a_batch_of_no_image_is_refused(
    model_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(images), "--model", str(model_folder), "--out", str(tmp_path / "out")]
    assert main([*words, "--batch-size", "0"]) == 2
    assert "--batch-size takes 1 image or more, not 0" in capsys.readouterr().err
