"""GeoJSON in pixels: shapely finds the polygons valid, and rasterio draws the same masks."""

import json
from pathlib import Path

import numpy as np
import pytest

from scenewise.classes import Classes
from scenewise.data.formats.geojson import pixel_geojson

CLASSES = Classes.numbered(4)


def labels(kind: str) -> np.ndarray:
    rng = np.random.default_rng(len(kind))
    if kind == "noise":  # corners that touch, holes in holes
        return rng.integers(0, 3, (23, 31))
    if kind == "blobs":
        blobs = np.kron(rng.integers(0, 4, (5, 4)), np.ones((7, 9), int))
        return np.where(rng.random(blobs.shape) < 0.1, 255, blobs)
    if kind == "one":
        return np.full((5, 7), 3)
    if kind == "ignored":
        return np.full((5, 7), 255)
    mask = np.zeros((7, 8), int)  # a region that closes round holes at corners
    mask[1:6, 1:6] = 1
    mask[2, 2] = mask[3, 3] = mask[5, 5] = mask[4, 4] = 0
    return mask


@pytest.mark.parametrize("kind", ["noise", "blobs", "one", "ignored", "corners"])
def test_polygons_are_valid_and_draw_the_same_masks(kind: str) -> None:
    shape = pytest.importorskip("shapely.geometry").shape
    features = pytest.importorskip("rasterio.features")
    ids = labels(kind)
    confidence = np.random.default_rng(1).random(ids.shape).astype(np.float32)
    found = json.loads(json.dumps(pixel_geojson(ids, CLASSES, confidence)))["features"]
    drawn, count = np.full(ids.shape, 255), np.zeros(ids.shape, int)
    for feature in found:
        polygon, properties = shape(feature["geometry"]), feature["properties"]
        assert polygon.is_valid
        assert polygon.exterior.is_ccw  # as RFC 7946 asks of the numbers
        assert not any(hole.is_ccw for hole in polygon.interiors)
        mask = features.rasterize([polygon], ids.shape, dtype="uint8") == 1
        assert polygon.area == properties["area"] == mask.sum()
        assert properties["share"] == pytest.approx(mask.mean(), abs=1e-6)
        assert properties["confidence"] == pytest.approx(confidence[mask].mean(), abs=2e-6)
        assert properties["class"] == f"class_{properties['class_id']}"
        drawn[mask] = properties["class_id"]
        count += mask
    assert np.array_equal(drawn, ids)
    assert np.array_equal(count, ids != 255)
    # an independent count of the 4-connected regions
    expected = sum(1 for _ in features.shapes(ids.astype(np.int32), mask=ids != 255))
    assert len(found) == expected


def test_gdal_reads_the_file(tmp_path: Path) -> None:
    raw = pytest.importorskip("pyogrio.raw")
    value = pixel_geojson(labels("corners"), CLASSES, name="a")
    assert (value["width"], value["height"], value["name"]) == (8, 7, "a")
    assert "confidence" not in value["features"][0]["properties"]
    (tmp_path / "a.geojson").write_text(json.dumps(value))
    meta, _, shapes, (*_, share) = raw.read(tmp_path / "a.geojson")
    assert list(meta["fields"]) == ["class_id", "class", "area", "share"]
    assert len(shapes) == len(value["features"])
    assert share.sum() == pytest.approx(1, abs=1e-5)
