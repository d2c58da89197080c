"""GeoTIFFs are written whole or not at all, with overviews."""

import signal

import numpy as np
import pytest

from scenewise.data.geotiff import Content, write_geotiff
from scenewise.data.rasters import GeoReference
from scenewise.errors import UserError

rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")
GRID = rasterio.Affine(0.5, 0.1, 5e5, 0.1, -0.5, 5e6)
UTM = rasterio.crs.CRS.from_epsg(32633)
WHERE = GeoReference(UTM, GRID, ([], None), None, "Point")


def of(array):
    return lambda block: array[:, slice(*block.rows), slice(*block.columns)]


def test_pixels_coordinates_colours_and_overviews(tmp_path):
    ids = np.kron(np.random.default_rng(0).integers(0, 3, (1, 40, 75)), np.ones((1, 16, 16)))
    ids = ids.astype(np.uint8)
    ids[0, :64, :64] = 255
    path = tmp_path / "a.tif"
    content = Content(255, ("class id",), ((1, 2, 3), (4, 5, 6), (7, 8, 9)), tags=(("k", "v"),))
    write_geotiff(path, (640, 1200), 64, of(ids), WHERE, content)
    assert [file.name for file in tmp_path.iterdir()] == ["a.tif"]
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(), ids)
        assert (file.crs, file.transform, file.nodata) == (UTM, GRID, 255)
        assert file.tags()["AREA_OR_POINT"] == "Point"
        assert file.tags()["k"] == "v"
        assert file.colormap(1)[2] == (7, 8, 9, 255)
        assert (file.block_shapes, file.compression.name) == ([(64, 64)], "deflate")
        assert file.overviews(1) == [2, 4, 8]
        assert np.array_equal(file.read(1, out_shape=(80, 150)), ids[0, ::8, ::8])


def test_a_scale_and_names_of_bands(tmp_path):
    values = np.full((2, 16, 32), 127, np.uint8)
    content = Content(255, ("road", "sky"), scale=1 / 254)
    write_geotiff(tmp_path / "a.tif", (16, 32), 16, of(values), WHERE, content)
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.descriptions == ("road", "sky")
        assert file.scales[0] * file.read(1)[0, 0] == pytest.approx(0.5)


@pytest.mark.parametrize("room", [300, 100_000])
def test_a_full_disk_leaves_the_old_file(tmp_path, room):
    """A limit on the size of files stops the writer as a full disk does."""
    resource = pytest.importorskip("resource", reason="Windows has no limit on the size of files")
    path = tmp_path / "a.tif"
    path.write_text("old")
    values = np.random.default_rng(0).integers(0, 255, (1, 512, 512), np.uint8)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        with pytest.raises(UserError, match="enough free space"):
            write_geotiff(path, (512, 512), 128, of(values), WHERE, Content(255))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.tif"]
