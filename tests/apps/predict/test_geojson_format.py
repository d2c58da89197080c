"""``--format geojson``: the labels as polygons, with their confidence, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scenewise import Predictor, load_model
from scenewise.apps.cli import main


@pytest.fixture
def image(tmp_path: Path) -> Path:
    values = np.random.default_rng(5).integers(0, 256, (29, 33, 3), np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def predict(*words: object) -> int:
    options = ["--device", "cpu", "--no-overlay", "--format", "geojson"]
    return main(["predict", *map(str, words), *options])


def test_polygons_are_the_labels_with_their_confidence(
    model_folder: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = pytest.importorskip("rasterio.features")
    labels, confidence = Predictor(load_model(model_folder))(image)
    sure, out = float(confidence.median()), tmp_path / "out"
    words = [image, "--model", model_folder, "--out", out, "--sure", sure]
    assert predict(*words) == 0
    content = json.loads((out / "geojson" / "a.geojson").read_text())
    assert (content["name"], content["width"], content["height"]) == ("a", 33, 29)
    drawn = np.full(labels.shape, 255)
    for feature in content["features"]:
        mask = features.rasterize([feature["geometry"]], labels.shape, dtype="uint8") == 1
        about = feature["properties"]
        drawn[mask] = about["class_id"]
        assert about["class"] == ("road", "sky", "car")[about["class_id"]]
        assert about["area"] == mask.sum()
        mean = float(confidence[mask].double().mean())
        assert about["confidence"] == pytest.approx(mean, abs=2e-6)
    assert np.array_equal(drawn, np.where(confidence < sure, 255, labels))
    assert not list((out / "geojson").glob("*.png"))
    assert predict(*words) == 0
    assert "1 skipped" in capsys.readouterr().err
    (out / "geojson" / "a.geojson").unlink()
    assert predict(*words) == 0  # what is missing is written again
    assert json.loads((out / "geojson" / "a.geojson").read_text()) == content


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--raster", "yes"], "a raster keeps its coordinates with --vectors geojson; leave"),
        (["--engine", "ray"], "--format is not for --engine ray; leave one of the two out"),
    ],
)
def test_rasters_and_ray_are_refused(
    model_folder: Path,
    image: Path,
    tmp_path: Path,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("rasterio")
    words = [image, "--model", model_folder, "--out", tmp_path / "out", *options]
    assert predict(*words) == 2
    assert message in capsys.readouterr().err
