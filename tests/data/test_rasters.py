"""Rasters: blocks cover every pixel once, and values are read as images are."""

import numpy as np
import pytest
import torch

from scenewise.data.images import read_image
from scenewise.data.layout import RGB, Layout
from scenewise.data.rasters import Block, blocks, is_raster, open_raster, read_tags, with_halo
from scenewise.errors import UserError

rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")
GRID = rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 5e6)


def write(path, values, **options):
    count, height, width = values.shape
    profile = {"count": count, "height": height, "width": width, "dtype": values.dtype.name}
    options = {"crs": "EPSG:32633", "transform": GRID, **options}
    with rasterio.open(path, "w", driver="GTiff", **profile, **options) as file:
        file.write(values)
    return path


def noise(*shape, high=256, dtype=np.uint8):
    return np.random.default_rng(0).integers(1, high, shape).astype(dtype)


@pytest.mark.parametrize("size", [(1, 1), (16, 48), (37, 101)])
def test_blocks_cover_each_pixel_once_and_halos_have_one_size(size):
    seen, extents = np.zeros(size, int), set()
    for block in blocks(size, 16):
        around = with_halo(block, size, 16, 5)
        extents.add(around.size)
        seen[slice(*block.rows), slice(*block.columns)] += 1
        for (first, last), (start, end), length in zip(block, around, size, strict=True):
            assert 0 <= start <= max(0, first - 5) or end == length
            assert min(length, last + 5) <= end <= length or start == 0
            assert start <= first < last <= end
    assert (seen == 1).all()
    assert extents == {(min(size[0], 26), min(size[1], 26))}


def test_bytes_are_those_of_the_image_reader(tmp_path):
    path = write(tmp_path / "a.tif", noise(3, 23, 41), photometric="rgb")
    with open_raster(path) as raster:
        values, known = raster.read(Block((3, 20), (7, 40)))
    assert torch.equal(values, read_image(path)[:, 3:20, 7:40])
    assert known.all()


def test_many_wide_bands_with_missing_values(tmp_path):
    stored = noise(5, 11, 13, high=9000, dtype=np.int16)
    stored[:, 2, 3], stored[1, 4, 5] = -9999, -9999
    path = write(tmp_path / "a.tif", stored, nodata=-9999)
    with open_raster(path, Layout(5, rgb=False, wide=True)) as raster:
        values, known = raster.read(Block((0, 11), (0, 13)))
    assert not known[2, 3]
    assert known.sum() == 11 * 13 - 1  # one missing channel is not a missing pixel
    assert values.min() > 0
    assert torch.equal(values, read_image(path, Layout(5, rgb=False, wide=True)))


def test_channels_nan_alpha_and_palettes(tmp_path):
    floats = noise(4, 6, 7).astype(np.float32)
    floats[2, 0, 1] = np.nan
    path = write(tmp_path / "f.tif", floats)
    with open_raster(path, Layout(1, rgb=False, wide=True, channels=(2,))) as raster:
        values, known = raster.read(Block((0, 6), (0, 7)))
    assert np.argwhere(~known).tolist() == [[0, 1]]
    assert torch.equal(values[0, 1:], torch.from_numpy(floats[2, 1:]))

    rgba = noise(4, 6, 7)
    rgba[3, 5] = 0
    path = write(tmp_path / "rgba.tif", rgba, photometric="rgb", alpha="yes")
    with open_raster(path) as raster:
        values, known = raster.read(Block((0, 6), (0, 7)))
    assert np.array_equal(values.numpy(), rgba[:3])
    assert known[:5].all()
    assert not known[5].any()

    path = write(tmp_path / "p.tif", noise(1, 6, 7, high=3), photometric="palette")
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {1: (9, 8, 7, 255), 2: (6, 5, 4, 255)})
    with open_raster(path) as raster:
        colors = raster.read(Block((0, 6), (0, 7)))[0]
    assert torch.equal(colors, read_image(path))


def test_a_damaged_block_is_named_and_others_are_read(tmp_path):
    options = {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}
    path = write(tmp_path / "a.tif", noise(3, 48, 48), photometric="rgb", **options)
    content = bytearray(path.read_bytes())
    content[-300:] = bytes(300)
    path.write_bytes(content)
    with open_raster(path) as raster:
        raster.read(Block((0, 16), (0, 16)))
        with pytest.raises(UserError, match=r"damaged at rows 32 to 47, columns 32 to 47 \("):
            raster.read(Block((32, 48), (32, 48)))


def test_what_is_not_a_raster_or_has_other_bands(tmp_path):
    (tmp_path / "a.tif").write_text("no raster")
    four = write(tmp_path / "four.tif", noise(4, 5, 5), photometric="minisblack")
    complex_values = write(tmp_path / "c.tif", np.zeros((1, 5, 5), np.complex64))
    with pytest.raises(UserError, match="cannot be read"), open_raster(tmp_path / "a.tif"):
        pass
    with pytest.raises(UserError, match="not found"), open_raster(tmp_path / "b.tif"):
        pass
    with pytest.raises(UserError, match="complex"), open_raster(complex_values):
        pass
    chosen = Layout(1, rgb=False, channels=(4,))
    with pytest.raises(UserError, match="has 4 bands"), open_raster(four, chosen):
        pass
    with pytest.raises(UserError, match="4 channels, and 3"), open_raster(four, RGB) as raster:
        raster.read(Block((0, 5), (0, 5)))


@pytest.mark.parametrize(
    "band",
    [
        '<VRTRasterBand dataType="Byte" band="1" subClass="VRTDerivedRasterBand">'
        "<PixelFunctionType>f</PixelFunctionType>"
        "<PixelFunctionLanguage>Python</PixelFunctionLanguage><PixelFunctionCode><![CDATA["
        "def f(*args):\n    open('{here}/ran', 'w')\n]]></PixelFunctionCode></VRTRasterBand>",
        '<VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename>'
        "/vsicurl/http://127.0.0.1:9/a.tif</SourceFilename><SourceBand>1</SourceBand>"
        "</SimpleSource></VRTRasterBand>",
    ],
    ids=["code", "network"],
)
def test_a_vrt_runs_no_code_and_opens_no_connection(tmp_path, band):
    text = f'<VRTDataset rasterXSize="8" rasterYSize="8">{band}</VRTDataset>'
    path = tmp_path / "a.vrt"
    path.write_text(text.replace("{here}", str(tmp_path)))
    with pytest.raises(UserError), open_raster(path) as raster:
        raster.read(Block((0, 8), (0, 8)))
    assert not (tmp_path / "ran").exists()


def test_which_files_are_rasters(tmp_path):
    located = write(tmp_path / "a.tif", noise(1, 5, 5))
    with rasterio.open(located, "r+") as file:
        file.update_tags(key="value")
    assert read_tags(located)["key"] == "value"
    plain = tmp_path / "b.tif"
    from PIL import Image

    Image.new("L", (5, 5)).save(plain)
    (tmp_path / "c.tif").write_bytes(b"II*\0damaged")
    found = [is_raster(path) for path in (located, plain, tmp_path / "c.tif", tmp_path / "d.vrt")]
    assert found == [True, False, False, True]
    assert is_raster(plain, "yes")
    assert not is_raster(located, "no")
