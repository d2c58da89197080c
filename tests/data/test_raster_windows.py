"""``scenewise prepare geo``: windows with masks, divided by location."""

import numpy as np
import pytest
import torch

from scenewise.apps.cli import main
from scenewise.data import open_dataset
from scenewise.data.images import read_image, read_mask

rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")
shapely = pytest.importorskip("shapely", reason="the extra geo is not installed")
pyogrio = pytest.importorskip("pyogrio", reason="the extra geo is not installed")
GRID = rasterio.Affine(2, 0, 5e5, 0, -2, 5e6)
SIDE = 256


def box(left, top, right, bottom):
    """A rectangle of pixels, in the coordinates of the raster."""
    return shapely.box(5e5 + 2 * left, 5e6 - 2 * bottom, 5e5 + 2 * right, 5e6 - 2 * top)


def write_vector(path, shapes, names, crs="EPSG:32633"):
    wkb, fields = shapely.to_wkb(np.array(shapes)), [np.array(names, dtype=object)]
    pyogrio.raw.write(path, wkb, fields, ["crop"], geometry_type="Polygon", crs=crs)
    return path


@pytest.fixture
def values():
    return np.random.default_rng(0).integers(1, 9000, (4, SIDE, SIDE)).astype(np.uint16)


@pytest.fixture
def raster(tmp_path, values):
    values[:, :10, :64] = 0
    profile = {"count": 4, "height": SIDE, "width": SIDE, "dtype": "uint16", "nodata": 0}
    path = tmp_path / "map.tif"
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:32633", transform=GRID, **profile) as f:
        f.write(values)
    return path


@pytest.fixture
def vector(tmp_path):
    stripes = [box(0, top, SIDE, top + 9) for top in range(0, SIDE, 18)]
    shapes, names = [*stripes, box(64, 0, 70, SIDE)], ["rye"] * len(stripes) + ["oat"]
    return write_vector(tmp_path / "a.gpkg", shapes, names)


def expected_mask(rest):
    ids = np.full((SIDE, SIDE), rest, np.uint8)
    oat, rye = (1, 2) if rest == 0 else (0, 1)
    for top in range(0, SIDE, 18):
        ids[top : top + 9] = rye
    ids[:, 64:70] = oat
    ids[:10, :64] = 255
    return ids


def prepare(*words):
    return main(["prepare", "geo", *map(str, words)])


@pytest.mark.parametrize(("rest", "fill"), [("background", 0), ("ignore", 255)])
def test_windows_hold_the_pixels_and_the_polygons(
    tmp_path, raster, vector, values, capsys, rest, fill
):
    out = tmp_path / "out"
    assert prepare(raster, vector, "--rest", rest, "--window", 32, "--out", out) == 0
    stdout = capsys.readouterr().out
    assert "64 windows for training" not in stdout
    assert f"use --data.root {out}" in stdout
    expected, seen = expected_mask(fill), np.zeros((SIDE, SIDE), int)
    for split in ("train", "val"):
        dataset = open_dataset(out, split)
        assert dataset.classes.names == ("background", "oat", "rye")[fill != 0 :]
        for name in dataset.names:
            top, left = map(int, name.split("_")[1:])
            place = slice(top, top + 32), slice(left, left + 32)
            mask = read_mask(out / "masks" / split / f"{name}.png")
            assert np.array_equal(mask.numpy(), expected[place])
            image = read_image(out / "images" / split / f"{name}.tif", dataset.layout)
            known = torch.from_numpy((values[:, *place] > 0).all(0))
            stored = torch.from_numpy(values[:, *place].astype(np.float32))
            assert torch.equal(image[:, known], stored[:, known])
            seen[place] += 1
    assert seen.max() == 1
    assert (seen == 1).mean() > 0.9


def test_training_and_validation_are_in_other_regions(tmp_path, raster, vector):
    out = tmp_path / "out"
    assert prepare(raster, vector, "--rest", "background", "--window", 32, "--out", out) == 0
    regions = {}
    for split in ("train", "val"):
        names = [path.stem.split("_")[1:] for path in (out / "masks" / split).iterdir()]
        regions[split] = {(int(top) // 64, int(left) // 64) for top, left in names}
        assert names
    assert not regions["train"] & regions["val"]


def test_an_interrupted_call_resumes_and_other_options_are_refused(
    tmp_path, raster, vector, capsys
):
    words = (raster, vector, "--rest", "background", "--window", 64, "--out", tmp_path / "out")
    assert prepare(*words) == 0
    masks = sorted((tmp_path / "out/masks").rglob("*.png"))
    kept, times = masks[1:], [mask.stat().st_mtime_ns for mask in masks[1:]]
    masks[0].unlink()
    assert prepare(*words) == 0
    assert masks[0].is_file()
    assert [mask.stat().st_mtime_ns for mask in kept] == times
    assert prepare(*words, "--val_share", 0.4) == 2
    assert "windows of other files or options" in capsys.readouterr().err


def test_what_cannot_be_cut(tmp_path, raster, vector, capsys):
    one = write_vector(tmp_path / "one.gpkg", [box(0, 0, 90, 90)], ["rye"])
    far = write_vector(tmp_path / "far.gpkg", [box(9000, 0, 9100, 90)], ["rye"])
    out = ("--out", tmp_path / "out")
    cases = [
        ((raster, vector), "--rest background or --rest ignore"),
        ((raster, far, "--rest", "background"), "no polygon of"),
        ((raster, one, "--rest", "ignore"), "holds one class, 'rye'"),
        ((raster,), "takes a raster and a vector file"),
        ((raster, vector, "--rest", "ignore", "--window", 8), "32 or more pixels"),
        ((raster, vector, "--rest", "ignore", "--shards", 2), "--shards"),
    ]
    for words, message in cases:
        assert prepare(*words, *out) == 2
        assert message in capsys.readouterr().err
    assert main(["prepare", "folder", "a", "b"]) == 2
    assert "only geo takes RASTER VECTOR" in capsys.readouterr().err
