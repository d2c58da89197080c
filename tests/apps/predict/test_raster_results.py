"""``scenewise predict`` on rasters: blocks, coordinates, pixels without data, resumption."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise import Predictor, load_model
from scenewise.apps.cli import main
from scenewise.data.rasters import blocks, with_halo
from scenewise.data.vectors import read_polygons

rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")
pytest.importorskip("pyogrio", reason="the extra geo is not installed")
pytest.importorskip("shapely", reason="the extra geo is not installed")
from rasterio.features import rasterize  # noqa: E402

GRID = rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 5e6)
SIZE = (75, 100)
BLOCKS = ("--block", 32, "--halo", 8)


@pytest.fixture(scope="module")
def values():
    array = np.random.default_rng(0).integers(1, 256, (3, *SIZE), np.uint8)
    array[:, 30:, :40] = 0  # holds two blocks
    return array


@pytest.fixture
def raster(tmp_path, values):
    path = tmp_path / "map.tif"
    profile = {"count": 3, "height": SIZE[0], "width": SIZE[1], "dtype": "uint8", "nodata": 0}
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:32633", transform=GRID, **profile) as f:
        f.write(values)
    return path


@pytest.fixture(scope="module")
def expected(model_folder, values):
    """Class scores, each block predicted with its halo."""
    predictor, scores = Predictor(load_model(model_folder)), torch.zeros(3, *SIZE)
    for block in blocks(SIZE, 32):
        around = with_halo(block, SIZE, 32, 8)
        part = torch.from_numpy(values)[:, slice(*around.rows), slice(*around.columns)]
        top, left = (inner[0] - outer[0] for inner, outer in zip(block, around, strict=True))
        height, width = block.size
        scores[:, slice(*block.rows), slice(*block.columns)] = predictor.scores(part)[
            :, top : top + height, left : left + width
        ]
    return scores.numpy()


def predict(*words: object) -> int:
    return main(["predict", *map(str, words), "--device", "cpu"])


def read(path: Path):
    with rasterio.open(path) as file:
        return file.read(), file.profile, file.tags()


def test_labels_confidence_and_probabilities(
    model_folder, raster, values, expected, tmp_path, capsys
):
    out = tmp_path / "out"
    words = (raster, "--model", model_folder, "--out", out, *BLOCKS)
    vectors = ("--vectors", "gpkg")
    assert predict(*words, *vectors, "--bands", "probabilities", "confidence") == 0
    labels, profile, tags = read(out / "labels/map.tif")
    empty = (values == 0).all(0)
    assert np.array_equal(labels[0] == 255, empty)
    assert (labels[0] == expected.argmax(0))[~empty].mean() > 0.999
    assert (profile["crs"].to_epsg(), profile["transform"], profile["nodata"]) == (32633, GRID, 255)
    assert tags["classes"] == '["road", "sky", "car"]'
    probabilities = read(out / "probabilities/map.tif")[0]
    assert (probabilities[:, empty] == 255).all()
    assert np.abs(probabilities / 254 - expected)[:, ~empty].max() < 0.003
    confidence = read(out / "confidence/map.tif")[0]
    assert np.array_equal(confidence, probabilities.max(0, keepdims=True))
    found = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    folders = ("confidence", "labels", "probabilities")
    files = ["classes.json", *(f"{folder}/map.tif" for folder in folders), "vectors/map.gpkg"]
    assert found == files
    polygons = read_polygons(out / "vectors/map.gpkg", profile["crs"], "class_id")
    shapes = zip(polygons.shapes, map(int, polygons.values), strict=True)
    drawn = rasterize(shapes, SIZE, fill=255, transform=GRID, dtype="uint8")
    assert np.array_equal(drawn, labels[0])
    written = (out / "labels/map.tif").stat().st_mtime_ns
    bands = ("--bands", "confidence", "probabilities")
    assert predict(*words, "--vectors", "geojson", *bands) == 0  # from the labels that exist
    assert (out / "vectors/map.geojson").is_file()
    assert (out / "labels/map.tif").stat().st_mtime_ns == written
    capsys.readouterr()
    assert predict(*words, *vectors, *bands) == 0
    assert "1 skipped that were finished before" in capsys.readouterr().err


def test_a_large_halo_gives_the_labels_of_the_whole_raster(model_folder, raster, values, tmp_path):
    words = (raster, "--model", model_folder, "--out", tmp_path / "out")
    assert predict(*words, "--block", 32, "--halo", 100, "--sure", 0.4) == 0
    labels, confidence = Predictor(load_model(model_folder))(torch.from_numpy(values))
    labels[(confidence < 0.4) | torch.from_numpy((values == 0).all(0))] = 255
    assert np.array_equal(read(tmp_path / "out/labels/map.tif")[0][0], labels.numpy())


def test_an_interrupted_raster_resumes_at_its_next_block(
    model_folder, raster, expected, tmp_path, monkeypatch
):
    out, calls, call = tmp_path / "out", [], Predictor.__call__

    def counted(self, image, **options):
        calls.append(image)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return call(self, image, **options)

    monkeypatch.setattr(Predictor, "__call__", counted)
    words = (raster, "--model", model_folder, "--out", out, *BLOCKS)
    assert predict(*words) == 130
    assert not (out / "labels/map.tif").exists()
    assert predict(*words) == 0
    assert len(calls) == 6 + 5  # of 12 blocks two have no data, and 5 were done
    labels = read(out / "labels/map.tif")[0][0]
    assert (labels == expected.argmax(0))[labels != 255].mean() > 0.999
    assert [p.name for p in (out / "labels").iterdir()] == ["map.tif"]
    calls.clear()
    monkeypatch.setattr(Predictor, "__call__", call)
    assert predict(*words, "--sure", 1) == 0  # other options: nothing is kept
    assert (read(out / "labels/map.tif")[0] == 255).mean() > 0.9


def test_an_image_without_coordinates_and_a_damaged_raster(model_folder, tmp_path, capsys, values):
    Image.fromarray(values.transpose(1, 2, 0)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:9000])
    out = tmp_path / "out"
    words = ("--model", model_folder, "--out", out, "--raster", "yes", *BLOCKS)
    assert predict(tmp_path / "a.png", tmp_path / "b.png", *words) == 2
    stderr = " ".join(capsys.readouterr().err.split())
    assert "a.png' has no CRS, so its labels have none either" in stderr
    assert "b.png' is damaged at rows" in stderr
    assert "1 of 2 images labelled" in stderr
    assert read(out / "labels/a.tif")[1]["crs"] is None
    assert not (out / "labels/b.tif").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--block", 20), "multiple of 16"),
        (("--halo", -1), "0 or more pixels"),
        (("--format", "coco"), "--format and --submission are for images"),
        (("--maps", "entropy"), "--maps is for images; leave the raster out or give --bands"),
    ],
)
def test_options_that_do_not_fit(model_folder, raster, tmp_path, capsys, options, message):
    words = (raster, "--model", model_folder, "--out", tmp_path / "out", *options)
    assert predict(*words) == 2
    assert message in capsys.readouterr().err


def test_without_the_extra_the_message_names_it(
    model_folder, raster, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(__import__("sys").modules, "rasterio", None)
    words = (raster, "--model", model_folder, "--out", tmp_path / "out")
    assert predict(*words) == 2
    assert "pip install 'scenewise[geo]'" in capsys.readouterr().err
    assert predict(*words, "--raster", "no") == 0
    assert (tmp_path / "out/labels/map.png").is_file()
