"""Polygons out of label rasters and back into them, in files that other programs read."""

import json

import numpy as np
import pytest

from scenewise.classes import Classes
from scenewise.data.rasters import GeoReference
from scenewise.data.vectors import classes_of, read_polygons, write_polygons
from scenewise.errors import UserError

rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")
shapely = pytest.importorskip("shapely", reason="the extra geo is not installed")
pyogrio = pytest.importorskip("pyogrio", reason="the extra geo is not installed")
from rasterio.features import rasterize  # noqa: E402

GRID = rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 5e6)
UTM = rasterio.crs.CRS.from_epsg(32633)
CLASSES = Classes(("road", "sky", "car"), ((10, 20, 30), (40, 50, 60), (250, 0, 5)))


def reference(crs=UTM, gcps=()):
    return GeoReference(crs, GRID, (list(gcps), None), None, None)


def of(array):
    return lambda block: array[:, slice(*block.rows), slice(*block.columns)]


def ids():
    array = np.random.default_rng(0).integers(0, 3, (1, 40, 50), np.uint8)
    array[0, 5:20, 3:30] = 255
    return array


@pytest.mark.parametrize("kind", ["gpkg", "geojson"])
@pytest.mark.parametrize("crs", [UTM, None], ids=["utm", "none"])
def test_polygons_drawn_again_are_the_labels(tmp_path, kind, crs):
    path, labels = tmp_path / f"a.{kind}", ids()
    write_polygons(path, (40, 50), 16, of(labels), reference(crs), CLASSES)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    meta, _, _, data = pyogrio.raw.read(path)
    assert set(data[0]) == {0, 1, 2}
    assert [CLASSES.names[k] for k in data[0]] == list(data[1])
    if kind == "gpkg":
        assert meta["crs"] == (None if crs is None else "EPSG:32633")
    if crs is None and kind == "geojson":  # its standard has no other coordinates than WGS 84
        return
    polygons = read_polygons(path, crs, "class_id")
    assert bool(polygons.note) == (kind == "geojson" or crs is None)
    shapes = zip(polygons.shapes, map(int, polygons.values), strict=True)
    drawn = rasterize(shapes, (40, 50), fill=255, transform=GRID, dtype="uint8")
    assert np.array_equal(drawn, labels[0])


def test_no_polygon_and_ground_control_points(tmp_path):
    empty = np.full((1, 16, 16), 255, np.uint8)
    for kind in ("gpkg", "geojson"):
        path = tmp_path / f"a.{kind}"
        write_polygons(path, (16, 16), 16, of(empty), reference(), CLASSES)
        assert pyogrio.read_info(path)["features"] == 0
    points = [rasterio.control.GroundControlPoint(0, 0, 1, 1)]
    with pytest.raises(UserError, match="warp it first"):
        write_polygons(path, (16, 16), 16, of(empty), reference(gcps=points), CLASSES)


def geojson(path, properties, kind="Polygon"):
    square = [[[15, 45], [15.1, 45], [15.1, 45.1], [15, 45]]]
    points = {"Polygon": square, "Point": [15, 45]}[kind]
    features = [
        {"type": "Feature", "properties": p, "geometry": {"type": kind, "coordinates": points}}
        for p in properties
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_the_column_of_the_classes(tmp_path):
    one = geojson(tmp_path / "a.geojson", [{"crop": "rye", "size": 1.5}, {"crop": "oat"}])
    assert read_polygons(one, UTM).values == ["rye", "oat"]
    none = geojson(tmp_path / "b.geojson", [{}, {}])
    assert read_polygons(none, UTM).values == ["object", "object"]
    two = geojson(tmp_path / "c.geojson", [{"crop": "rye", "id": 7}])
    with pytest.raises(UserError, match=r"columns crop, id; give --column"):
        read_polygons(two, UTM)
    assert read_polygons(two, UTM, "id").values == ["7"]
    with pytest.raises(UserError, match="no column 'crops'; did you mean 'crop'"):
        read_polygons(two, UTM, "crops")
    with pytest.raises(UserError, match="the raster has none"):
        read_polygons(two, None, "id")
    assert classes_of(["10", "9", "10"]).names == ("9", "10")
    with pytest.raises(UserError, match="300 values"):
        classes_of([str(k) for k in range(300)])


def test_files_that_are_no_polygons(tmp_path):
    points = geojson(tmp_path / "a.geojson", [{"a": 1}], "Point")
    remote = tmp_path / "b.geojson"
    remote.write_text('<OGRVRTDataSource><OGRVRTLayer name="a"><SrcDataSource>/vsicurl/http://a')
    damaged = tmp_path / "c.geojson"
    damaged.write_text('{"type": "FeatureCollection", "features": [')
    cases = {points: "holds Point", remote: "unsupported type", damaged: "cannot read"}
    for path, message in {**cases, tmp_path / "d.gpkg": "check the path"}.items():
        with pytest.raises(UserError, match=message):
            read_polygons(path, UTM)
