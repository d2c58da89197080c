"""Images and masks of all usual file types are read exactly, and damaged ones refused."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise.data import images
from scenewise.data.images import read_image, read_mask
from scenewise.errors import UserError

RED, BLUE = (250, 10, 20), (5, 15, 240)


def two_colors(height: int = 5, width: int = 7) -> Image.Image:
    """A blue image whose upper left pixel is red."""
    image = Image.new("RGB", (width, height), BLUE)
    image.putpixel((0, 0), RED)
    return image


@pytest.fixture(params=["fast decoders", "PIL alone"])
def decoders(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "PIL alone":
        monkeypatch.setattr(images, "pyspng", None)
        monkeypatch.setattr(images, "simplejpeg", None)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
@pytest.mark.usefixtures("decoders")
def test_rgb_is_read_exactly(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    two_colors().save(path)
    image = read_image(path)
    assert image.shape == (3, 5, 7)
    assert image.dtype == torch.uint8
    assert tuple(image[:, 0, 0].tolist()) == RED
    assert tuple(image[:, 4, 6].tolist()) == BLUE


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_decoders_agree(tmp_path: Path, subsampling: int, progressive: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    smooth = Image.fromarray(noise).resize((101, 67), Image.Resampling.BICUBIC)
    path = tmp_path / "a.jpg"
    smooth.save(path, subsampling=subsampling, progressive=progressive)
    with Image.open(path) as image:
        assert np.array_equal(read_image(path).permute(1, 2, 0).numpy(), np.asarray(image))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_plain_images_go_to_the_fast_decoders(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_colors().save(tmp_path / f"a.{suffix}")
    monkeypatch.setattr(images, "_raw", None)
    assert read_image(tmp_path / f"a.{suffix}").shape == (3, 5, 7)


@pytest.mark.usefixtures("decoders")
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_images_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=rf"cannot read image .*a\.{suffix}"):
        read_image(path)


@pytest.mark.usefixtures("decoders")
def test_exif_orientation_of_a_png_is_respected(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    two_colors().save(tmp_path / "a.png", exif=exif)
    assert tuple(read_image(tmp_path / "a.png")[:, 4, 6].tolist()) == RED


@pytest.mark.usefixtures("decoders")
def test_exif_orientation_is_respected(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    image = Image.new("RGB", (32, 16), BLUE)
    image.paste(RED, (0, 0, 8, 8))
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = read_image(tmp_path / "a.jpg")
    assert image.shape == (3, 32, 16)
    assert image[0, 2, 13] > 200  # upper left has become upper right
    assert image[0, 2, 2] < 60


def test_wide_values_are_not_squeezed_into_eight_bits(tmp_path: Path) -> None:
    Image.fromarray(np.array([[372, 1480]], dtype=np.uint16)).save(tmp_path / "grey.png")
    Image.new("F", (7, 5), 0.5).save(tmp_path / "float.tif")
    with pytest.raises(
        UserError, match=r"grey\.png': it holds values from 372 to 1480, and 8 bits"
    ):
        read_image(tmp_path / "grey.png")
    with pytest.raises(
        UserError, match=r"float\.tif': it holds values from 0\.5 to 0\.5, and 8 bit"
    ):
        read_image(tmp_path / "float.tif")


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    white = Image.new("RGB", (7, 5), "white").convert(mode)
    white.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").unique().tolist() == [255]


def test_transparent_palette_and_cmyk(tmp_path: Path) -> None:
    two_colors().quantize(4).save(tmp_path / "a.png", transparency=b"\x00\x80")
    assert tuple(read_image(tmp_path / "a.png")[:, 0, 0].tolist()) == RED
    Image.new("CMYK", (7, 5), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").float().mean(dim=(1, 2)).round().tolist() == [255, 0, 0]


@pytest.mark.usefixtures("decoders")
def test_one_transparent_colour_changes_nothing(tmp_path: Path) -> None:
    two_colors().save(tmp_path / "a.png", transparency=RED)
    assert tuple(read_image(tmp_path / "a.png")[:, 0, 0].tolist()) == RED
    Image.new("L", (7, 5), 3).save(tmp_path / "mask.png", transparency=3)
    assert read_mask(tmp_path / "mask.png").tolist() == [[3] * 7] * 5


@pytest.mark.usefixtures("decoders")
@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_masks_keep_their_ids(tmp_path: Path, mode: str) -> None:
    ids = np.array([[0, 1, 2], [11, 254, 255]])
    if mode == "I;16":
        image = Image.fromarray(ids.astype(np.uint16))
    else:
        image = Image.fromarray(ids.astype(np.uint8))
    if mode == "P":
        image.putpalette([255, 0, 0] * 256)
    image.save(tmp_path / "a.png")
    mask = read_mask(tmp_path / "a.png")
    assert mask.dtype == torch.uint8
    assert mask.tolist() == ids.tolist()


def test_one_bit_masks_are_zero_and_one(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png").tolist() == [[1, 0]]


def test_colour_and_instance_images_are_refused_as_masks(tmp_path: Path) -> None:
    two_colors().save(tmp_path / "rgb.png")
    Image.fromarray(np.array([[0, 26001]], dtype=np.uint16)).save(tmp_path / "instances.png")
    with pytest.raises(UserError, match=r"rgb\.png' is a colour image .*one byte a pixel"):
        read_mask(tmp_path / "rgb.png")
    with pytest.raises(UserError, match=r"instances\.png' holds ids from 0 to 26001"):
        read_mask(tmp_path / "instances.png")


@pytest.mark.usefixtures("decoders")
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_missing_unreadable_truncated(tmp_path: Path, read) -> None:
    with pytest.raises(UserError, match=r"gone\.png' not found; check the path"):
        read(tmp_path / "gone.png")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(UserError, match=r"cannot read .*text\.png"):
        read(tmp_path / "text.png")
    noise = np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    half = (tmp_path / "whole.png").read_bytes()[:800]
    (tmp_path / "half.png").write_bytes(half)
    with pytest.raises(UserError, match=r"cannot read .*half\.png.*replace or remove"):
        read(tmp_path / "half.png")
    with pytest.raises(UserError, match="cannot read"):
        read(tmp_path)


def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_colors(40, 40).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(UserError, match="decompression bomb"):
        read_image(tmp_path / "a.png")


def test_masks_whose_ids_are_ambiguous(tmp_path: Path) -> None:
    ids = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4))
    ids.save(tmp_path / "lossy.png", format="JPEG")
    with pytest.raises(UserError, match=r"lossy\.png' is a JPEG, which blurs class ids"):
        read_mask(tmp_path / "lossy.png")
    (tmp_path / "four_bits.png").write_bytes(grey_png(4, 4, bits=4))
    with pytest.raises(UserError, match=r"four_bits\.png' has 4 bits of grey"):
        read_mask(tmp_path / "four_bits.png")


def test_a_mask_is_rotated_like_its_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    ids = np.arange(6, dtype=np.uint8).reshape(2, 3)
    Image.fromarray(ids).save(tmp_path / "a.png", exif=exif)
    assert read_mask(tmp_path / "a.png").tolist() == np.rot90(ids, -1).tolist()


def grey_png(height: int, width: int, bits: int) -> bytes:
    """A grey PNG of few bits a pixel, all zero; PIL reads such files but does not write them."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    row = b"\0" + bytes((width * bits + 7) // 8)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(row * height))
        + chunk(b"IEND", b"")
    )


def test_a_mask_with_one_flipped_bit_is_never_another_mask(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 19, (13, 29), dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(ids).save(path)
    whole = path.read_bytes()
    for k in range(len(whole)):
        path.write_bytes(whole[:k] + bytes([whole[k] ^ 1 << k % 8]) + whole[k + 1 :])
        try:
            mask = read_mask(path)
        except UserError:
            continue
        assert np.array_equal(mask.numpy(), ids)
