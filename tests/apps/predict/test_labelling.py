"""Predictions for labelling tools: read back by our own readers they are the same masks."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scenewise import Predictor, load_model
from scenewise.apps.cli import main
from scenewise.apps.predict.labelling import Labelled, Tool, write_for_tool
from scenewise.classes import Classes
from scenewise.data.formats import FORMATS
from scenewise.data.formats.listing import list_root
from scenewise.data.formats.recognise import recognise

COLORS = ((0, 0, 0), (200, 10, 20), (20, 220, 10), (9, 9, 255))
# A background anywhere in the list, or none.
CLASSES = [
    Classes(("background", "road", 'a "<sky>" & ä', "tree"), COLORS),
    Classes(("road", "sky", "bg", "tree"), COLORS),
    Classes(("road", "sky", "car", "tree"), COLORS),
]


def random_labels(size: tuple[int, int], seed: int) -> np.ndarray:
    """Blobs of four classes with holes and single pixels, and ignored ones."""
    rng = np.random.default_rng(seed)
    blobs = np.kron(rng.integers(0, 4, (6, 5)), np.ones((7, 9), int))[: size[0], : size[1]]
    noise = rng.random(size)
    ids = np.where(noise < 0.1, rng.integers(0, 4, size), blobs)
    return np.where(noise > 0.95, 255, ids).astype(np.uint8)


@pytest.fixture
def results(tmp_path: Path) -> list[Labelled]:
    """Images of different sizes in folders, with labels; of the last, one class is everywhere."""
    found = []
    for seed, (name, size) in enumerate(
        (("a", (31, 37)), ("deep/b c", (40, 29)), ("deep/d.png", (5, 7)))
    ):
        image, labels = tmp_path / "in" / f"{name}.jpg", tmp_path / "labels" / f"{name}.png"
        for path in (image, labels):
            path.parent.mkdir(parents=True, exist_ok=True)
        ids = random_labels(size, seed) if seed < 2 else np.full(size, 3, np.uint8)
        Image.new("RGB", size[::-1], (seed, 8, 9)).save(image)
        Image.fromarray(ids).save(labels)
        found.append(Labelled(image, name, labels))
    return found


@pytest.mark.parametrize("tool", ["coco", "yolo", "labelme", "cvat", "labelstudio"])
@pytest.mark.parametrize("classes", CLASSES, ids=["first", "third", "none"])
def test_what_is_written_reads_back_to_the_same_masks(
    tool: Tool, classes: Classes, results: list[Labelled], tmp_path: Path
) -> None:
    write_for_tool(tool, tmp_path / "out", results, classes)
    assert recognise(tmp_path / "out").format == tool
    form = FORMATS[tool]
    write_for_tool(tool, tmp_path / "out", results[::-1], classes)  # again: nothing doubles
    (split,) = form.splits(list_root(tmp_path / "out")) if form.splits else ()
    dataset = form.open(tmp_path / "out", split, None)
    named = {name: k for k, name in enumerate(dataset.classes.names)}
    background = next((name for name in classes.names if name in ("background", "bg")), None)
    for result in results:
        index = next(
            i for i, path in enumerate(dataset.images) if path.resolve() == result.image.resolve()
        )
        image, mask = dataset.read(index)
        ids = np.asarray(Image.open(result.labels))
        expected = np.full_like(ids, 255)
        for k, name in enumerate(classes.names):
            if (ids == k).any():
                expected[ids == k] = 0 if name == background else named[name]
        assert np.array_equal(mask.numpy(), expected)
        assert image.shape[1:] == mask.shape


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(3)
    for name, size in (("a.png", (41, 23)), ("b.jpg", (29, 37))):
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).save(folder / name)
    return folder


def predict(*words: object) -> int:
    return main(["predict", *map(str, words), "--device", "cpu", "--no-overlay"])


def test_pixels_below_sure_are_ignored_and_images_are_ranked(
    model_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictor, out = Predictor(load_model(model_folder)), tmp_path / "out"
    expected = {path: predictor(path) for path in sorted(images.iterdir())}
    sure = float(expected[images / "a.png"].confidence.median())
    words = [images, "--model", model_folder, "--out", out, "--format", "coco", "--sure", sure]
    assert predict(*words) == 0
    for path, (labels, confidence) in expected.items():
        stored = np.asarray(Image.open(out / "labels" / f"{path.stem}.png"))
        assert np.array_equal(stored, np.where(confidence < sure, 255, labels))
    rows = list(csv.reader((out / "ranking.csv").read_text().splitlines()))
    assert rows[0] == ["image", "mean_confidence", "lowest_confidence"]
    means = {str(p): float(prediction.confidence.mean()) for p, prediction in expected.items()}
    assert [row[0] for row in rows[1:]] == sorted(means, key=lambda path: means[path])
    for path, mean, lowest in rows[1:]:
        assert float(mean) == pytest.approx(means[path], abs=1e-5)
        low = float(expected[Path(path)].confidence.min())
        assert float(lowest) == pytest.approx(low, abs=1e-5)
    content = json.loads((out / "coco" / "_annotations.coco.json").read_text())
    assert [category["name"] for category in content["categories"]][-1] == "__ignore__"
    before = (out / "ranking.csv").read_text()
    (out / "ranking.csv").unlink()
    assert predict(*words) == 0  # nothing is labelled again, all is written
    assert "2 skipped" in capsys.readouterr().err
    assert (out / "ranking.csv").read_text() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{images}", "--sure", "1.5"], "--sure must be above 0"),
        (["{images}", "--sure", "0.5", "--submission", "voc"], "which servers refuse"),
        (["{video}", "--format", "coco"], "--format and --sure are for images"),
        (["{images}", "--format", "paint"], "--format is 'paint'; choose one of coco"),
    ],
)
def test_options_that_do_not_fit(
    model_folder: Path,
    images: Path,
    tmp_path: Path,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "drive.mp4").write_bytes(b"")
    filled = [w.format(images=images, video=tmp_path / "drive.mp4") for w in words]
    start = ["predict", "--device", "cpu", "--model", str(model_folder)]
    assert main([*start, "--out", str(tmp_path / "out"), *filled]) == 2
    assert message in capsys.readouterr().err
