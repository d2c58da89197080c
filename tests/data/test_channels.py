"""Images of 16 bits, floats and any number of channels: reading, layouts, ranges, augmentation."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import tv_tensors

from scenewise.classes import Classes
from scenewise.data.datasets import PairedDataset
from scenewise.data.doctor import check, quick_check
from scenewise.data.doctor.contact_sheet import write_contact_sheet
from scenewise.data.images import (
    as_values,
    encode_image,
    image_kind,
    image_of,
    orientation_of,
    read_image,
    turned,
)
from scenewise.data.layout import RGB, Layout
from scenewise.data.tiff import Kind
from scenewise.data.transforms import train_transform
from scenewise.data.value_range import image_format
from scenewise.errors import UserError
from tests.data.pngs import png

RANDOM = np.random.default_rng(0)


def values(*shape: int, dtype: str = "uint16", most: int = 4096) -> NDArray[np.generic]:
    return (RANDOM.random(shape) * most).astype(dtype)


def tiff(path: Path, pixels: NDArray[np.generic], **options: object) -> Path:
    planar = "contig" if pixels.ndim == 3 else None
    options = {"photometric": "minisblack", "planarconfig": planar, **options}
    tifffile.imwrite(path, pixels, **options)  # type: ignore[arg-type]
    return path


def dataset(folder: Path, suffix: str = ".tif", count: int = 1) -> PairedDataset:
    """The images in a folder, each with a mask of zeros and ones."""
    images = sorted(folder.glob(f"*{suffix}"))[:count]
    masks = [folder / f"{path.stem}_mask.png" for path in images]
    for mask in masks:
        Image.fromarray(np.tile(np.array([0, 1], np.uint8), (5, 4))).save(mask)
    return PairedDataset(images, masks, Classes.numbered(2))


@pytest.mark.parametrize(
    ("color", "channels"), [(0, 1), (2, 3), (6, 4)], ids=["grey", "rgb", "rgba"]
)
def test_pngs_of_sixteen_bits_keep_all_of_them(tmp_path: Path, color: int, channels: int) -> None:
    pixels, path = values(5, 8, channels, most=65536), tmp_path / "a.png"
    path.write_bytes(png(pixels, color))
    layout = Layout(channels, False, True, tuple(range(channels)))
    image = read_image(path, layout)
    assert image.dtype == torch.float32
    assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels)
    assert image_kind(path) == Kind(min(channels, 3), channels // 4, channels > 1, True)
    if channels == 4:
        assert torch.equal(read_image(path, Layout(wide=True)), image[:3])  # without alpha


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_tiffs_of_many_channels(
    tmp_path: Path, compression: str | None, planar: str, dtype: str
) -> None:
    pixels = values(7, 5, 8, dtype=dtype, most=250)  # (C, H, W)
    stored = pixels if planar == "separate" else np.moveaxis(pixels, 0, 2)
    path = tiff(tmp_path / "a.tif", stored, planarconfig=planar, compression=compression)
    layout = Layout(7, False, dtype != "uint8")
    assert np.array_equal(read_image(path, layout).numpy(), pixels)
    assert image_kind(path) == Kind(7, 0, False, dtype != "uint8")
    part = Layout(2, False, dtype != "uint8", (6, 1))
    assert np.array_equal(read_image(path, part).numpy(), pixels[[6, 1]])


def test_a_compression_without_its_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    path = tiff(tmp_path / "a.tif", values(5, 8, 3), photometric="rgb", compression="lzw")
    monkeypatch.setattr(tifffile.TiffPage, "asarray", refuse)
    with pytest.raises(
        UserError, match=r"compressed with LZW; run: pip install 'scenewise\[tiff\]'"
    ):
        read_image(path, Layout(wide=True))


def test_eight_bit_tiffs_are_read_by_pil_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = values(5, 8, 3, dtype="uint8", most=256)
    tiff(tmp_path / "rgb.tif", pixels, photometric="rgb")
    tiff(
        tmp_path / "rgba.tif",
        np.dstack([pixels, pixels[..., 0]]),
        photometric="rgb",
        extrasamples=[2],
    )
    tiff(tmp_path / "grey.tif", pixels[..., 0])
    monkeypatch.setattr(tifffile.TiffPage, "asarray", None)
    for name in ("rgb", "rgba"):
        assert np.array_equal(read_image(tmp_path / f"{name}.tif").permute(1, 2, 0).numpy(), pixels)
    assert torch.equal(read_image(tmp_path / "grey.tif")[2], torch.from_numpy(pixels[..., 0]))


def test_red_green_blue_and_near_infrared(tmp_path: Path) -> None:
    pixels = values(5, 8, 4, dtype="uint8", most=256)
    path = tiff(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=[0])
    data = dataset(tmp_path)
    images = image_format(data)
    assert (images.layout.count, images.layout.rgb) == (4, False)
    assert "red, green, blue and 1 more channels are used; --data.channels [0,1,2]" in str(images)
    assert len(images.mean or ()) == 4
    assert torch.equal(data.read(0)[0], torch.from_numpy(pixels).permute(2, 0, 1))
    alone = image_format(data, [0, 1, 2])
    assert alone.layout.rgb
    assert alone.mean is None
    assert torch.equal(data.read(0)[0], read_image(path, Layout(4, False))[:3])


def test_transparency_is_left_out_unless_it_is_chosen(tmp_path: Path) -> None:
    pixels = values(5, 8, 4, dtype="uint8", most=256)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    images = image_format(data := dataset(tmp_path, "a.png"))
    assert images.layout == RGB
    assert "4th channel is transparency and is not used; --data.channels [0,1,2,3]" in str(images)
    assert len(data.read(0)[0]) == 3
    assert image_format(data, [0, 1, 2, 3]).layout.count == 4
    assert np.array_equal(data.read(0)[0].permute(1, 2, 0).numpy(), pixels)


def test_pages_are_channels_only_when_asked(tmp_path: Path) -> None:
    pixels = values(4, 5, 8)
    path = tiff(tmp_path / "a.tif", pixels, planarconfig=None)
    with pytest.raises(UserError, match=r"a\.tif': it holds 4 pages; give --data\.pages channels"):
        read_image(path, Layout(1, False, True))
    data = dataset(tmp_path)
    with pytest.raises(UserError, match="it holds 4 pages"):
        quick_check(data)
    assert image_format(data, pages=True).layout == Layout(4, False, True, pages=True)
    assert np.array_equal(data.read(0)[0].numpy(), pixels)


def test_overviews_and_previews_are_no_pages(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.tif", values(5, 16, 32)
    with tifffile.TiffWriter(path) as file:
        for part, kind in ((pixels, 0), (pixels[:, ::2, ::2], 1), (pixels[:, ::4, ::4], 0)):
            file.write(
                np.moveaxis(part, 0, 2),
                photometric="minisblack",
                planarconfig="contig",
                subfiletype=kind,
            )
    assert np.array_equal(read_image(path, Layout(5, False, True)).numpy(), pixels)


def test_damaged_tiffs_are_refused_or_read(tmp_path: Path) -> None:
    layout, path = Layout(5, False, True), tmp_path / "b.tif"
    for compression in (None, "zlib"):
        whole = tiff(tmp_path / "a.tif", values(5, 8, 5), compression=compression).read_bytes()
        for length in range(0, len(whole), 29):
            path.write_bytes(whole[:length])
            with pytest.raises(UserError, match=r"b\.tif"):
                read_image(path, layout)
        for k in range(0, len(whole), 3):
            path.write_bytes(whole[:k] + bytes([whole[k] ^ 1 << k % 8]) + whole[k + 1 :])
            with suppress(UserError):
                assert read_image(path, layout).shape[0] == 5
                image_kind(path)
                orientation_of(path)


def test_a_tiff_that_claims_a_huge_size_is_refused(tmp_path: Path) -> None:
    whole = bytearray(tiff(tmp_path / "a.tif", values(5, 8, 5)).read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        for tag in ("ImageWidth", "ImageLength"):
            place = file.pages[0].tags[tag].valueoffset
            whole[place : place + 2] = b"\xff\xff"
    (tmp_path / "a.tif").write_bytes(whole)
    with pytest.raises(UserError, match=r"a\.tif': it claims 4,294,836,225 pixels"):
        read_image(tmp_path / "a.tif", Layout(5, False, True))


def test_missing_values_become_the_smallest_other_one(tmp_path: Path) -> None:
    pixels = np.full((5, 8, 2), 3.0, np.float32)
    pixels[0, :4] = [[np.nan, 7], [-9999, 2], [np.inf, 9], [4, 5]]
    path = tiff(tmp_path / "a.tif", pixels, extratags=[(42113, 2, None, "-9999", False)])
    image = read_image(path, Layout(2, False, True))
    assert image[:, 0, :4].tolist() == [[2, 2, 2, 4], [7, 2, 9, 5]]


def test_images_that_differ_are_named(tmp_path: Path) -> None:
    tiff(tmp_path / "a.tif", values(5, 8, 8))
    tiff(tmp_path / "b.tif", values(5, 8, 7))
    with pytest.raises(UserError, match=r"a\.tif' has 8 channels and '.*b\.tif' 7 channels"):
        image_format(dataset(tmp_path, count=2))
    tiff(tmp_path / "b.tif", values(5, 8, 8, dtype="uint8", most=9))
    with pytest.raises(UserError, match=r"a\.tif' has more than 8 bits and '.*b\.tif' 8 bits"):
        image_format(dataset(tmp_path, count=2))
    with pytest.raises(UserError, match=r"has 8 channels, so none with index 8; correct"):
        image_format(dataset(tmp_path), [8])
    with pytest.raises(UserError, match=r"8 channels, and 3 \(RGB\) are expected"):
        read_image(tmp_path / "a.tif", Layout(wide=True))
    with pytest.raises(UserError, match=r"a\.tif': it has 8 channels, and 7 are expected"):
        read_image(tmp_path / "a.tif", Layout(7, False, True))
    with pytest.raises(UserError, match="has 8 bits a channel, and values of more bits"):
        read_image(tmp_path / "b.tif", Layout(8, False, True))


def test_grey_stays_one_channel_and_is_rgb_among_colours(tmp_path: Path) -> None:
    grey = values(5, 8, dtype="uint8", most=256)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(np.dstack([grey] * 3)).save(tmp_path / "b.png")
    images = image_format(alone := dataset(tmp_path, "a.png"))
    assert str(images) == "images: 1 channel (grey) of 8 bits, values from 0 to 255"
    assert alone.read(0)[0].tolist() == [grey.tolist()]
    assert read_image(tmp_path / "b.png", images.layout).tolist() == [grey.tolist()]
    assert images.mean == pytest.approx([grey.mean() / 255], abs=1e-4)
    assert images.std == pytest.approx([grey.std() / 255], abs=1e-4)
    both = dataset(tmp_path, "[ab].png", count=2)
    assert image_format(both).layout == RGB
    assert both.read(0)[0].tolist() == [grey.tolist()] * 3


def test_the_range_is_measured_once_for_all_channels(tmp_path: Path) -> None:
    for name in "abc":
        pixels = values(30, 40, 3, most=3000)
        pixels[0, 0] = 65535  # a defect
        tiff(tmp_path / f"{name}.tif", pixels, photometric="rgb")
    data = dataset(tmp_path, count=3)
    data.read = lambda i: (read_image(data.images[i], data.layout), None)  # type: ignore[method-assign, assignment, return-value]
    images = image_format(data)
    assert images.value_range is not None
    low, high = images.value_range
    assert 0 <= low < 15
    assert 2985 < high < 3000
    assert images.mean is None  # RGB is normalised as the backbone was
    assert f"values from {low:g} to {high:g} become 0 to 1 (0.1 and 99.9 percentiles)" in str(
        images
    )
    assert image_format(data, value_range=(0, 4095)).value_range == (0, 4095)
    with pytest.raises(UserError, match="ascending order"):
        image_format(data, value_range=(5, 5))
    with pytest.raises(UserError, match="three indices from 0 to 2"):
        image_format(data, shown=[1, 2, 3])


def test_a_channel_that_is_small_beside_the_others_is_not_lost(tmp_path: Path) -> None:
    pixels = np.dstack([RANDOM.random((5, 8)) / 10, RANDOM.random((5, 8)) * 3000])
    tiff(tmp_path / "a.tif", pixels.astype(np.float32))
    images = image_format(data := dataset(tmp_path))
    assert images.value_range is not None
    assert images.mean is not None
    assert images.std is not None
    low, high = images.value_range
    unit = (data.read(0)[0] - low) / (high - low)
    small = (unit[0] - images.mean[0]) / images.std[0]
    assert (float(small.std()), float(small.mean())) == pytest.approx((1, 0), abs=0.05)


def test_augmentation_of_eight_channels_changes_no_colours(tmp_path: Path) -> None:
    tiff(tmp_path / "a.tif", values(5, 8, 8))
    images = image_format(data := dataset(tmp_path))
    image, mask = data.read(0)
    transform = train_transform((16, 12), rotate=10, blur=True, images=images)
    torch.manual_seed(0)
    for _ in range(5):
        changed, ids = transform(tv_tensors.Image(image), tv_tensors.Mask(mask))
        assert (changed.shape, changed.dtype, ids.shape) == ((8, 16, 12), torch.float32, (16, 12))
    plain = train_transform((5, 8), scale=(1, 1), flip=False, images=images)
    for _ in range(5):
        assert torch.equal(plain(tv_tensors.Image(image), tv_tensors.Mask(mask))[0], image)


def test_colours_of_sixteen_bits_change_as_those_of_eight(tmp_path: Path) -> None:
    pixels = values(5, 8, 3, dtype="uint8", most=256)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tiff(tmp_path / "a.tif", pixels.astype(np.uint16) * 16 + 100, photometric="rgb")
    pair = []
    for suffix, span in ((".png", None), (".tif", (100, 100 + 255 * 16))):
        data = dataset(tmp_path, f"a{suffix}")
        images = image_format(data, value_range=span)
        transform = train_transform((4, 6), scale=(0.5, 2), images=images)
        torch.manual_seed(3)
        image, mask = data.read(0)
        for _ in range(4):
            changed, _ = transform(tv_tensors.Image(image), tv_tensors.Mask(mask))
        low, high = span or (0, 255)
        pair.append((changed.float() - low) / (high - low) * 255)
    # 8 bits are rounded after the resize, which contrast may multiply, and at the end
    assert (pair[0] - pair[1]).abs().max() < 3


def test_arrays_tensors_and_pil_images(tmp_path: Path) -> None:
    layout = Layout(1, False, True)
    pixels = values(5, 8)
    expected = torch.from_numpy(pixels.astype(np.float32))[None]
    for image in (pixels, pixels[..., None], Image.fromarray(pixels), expected):
        assert torch.equal(as_values(image, layout), expected)
    with pytest.raises(UserError, match="has 8 bits a channel"):
        as_values(np.zeros((5, 8), np.uint8), layout)
    with pytest.raises(UserError, match="not finite"):
        as_values(expected / 0, layout)
    with pytest.raises(UserError, match=r"must be \(H, W, 8\), not \(5, 8, 3\)"):
        as_values(np.zeros((5, 8, 3), np.uint16), Layout(8, False, True))
    (tmp_path / "a.png").write_bytes(png(values(5, 8, 3), 2))
    with Image.open(tmp_path / "a.png") as image, pytest.raises(UserError, match="give the path"):
        image_of(image)


@pytest.mark.parametrize("shape", [(3, 5, 8), (1, 5, 8), (7, 5, 8)])
def test_images_are_written_without_loss(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    for dtype, wide in ((torch.uint8, False), (torch.float32, True)):
        image = torch.from_numpy(values(*shape, most=250)).to(dtype)
        suffix, content = encode_image(image)
        (tmp_path / f"a{suffix}").write_bytes(content)
        layout = Layout(shape[0], shape[0] == 3, wide)
        assert torch.equal(read_image(tmp_path / f"a{suffix}", layout), image)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_is_that_of_pil(tmp_path: Path, orientation: int) -> None:
    pixels, exif = values(5, 8, 3, dtype="uint8", most=256), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    tiff(tmp_path / "a.tif", values(5, 8, 5), extratags=[(274, 3, 1, orientation, True)])
    stored = torch.from_numpy(pixels).permute(2, 0, 1)
    assert torch.equal(read_image(tmp_path / "a.png"), turned(stored, orientation))
    assert (
        read_image(tmp_path / "a.tif", Layout(5, False, True)).shape
        == turned(torch.zeros(5, 5, 8), orientation).shape
    )


def exif_pair(folder: Path, orientation: int, size: tuple[int, int], *, stored: bool) -> None:
    """An image with an orientation and its mask, which is that of its red channel."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[0, 1] = 255
    mask = torch.from_numpy(pixels[..., 0] // 255)
    name = f"{orientation}_{size[0]}_{size[1]}_{stored}"
    Image.fromarray(pixels).save(folder / f"{name}.png", exif=exif)
    shown = mask if stored else turned(mask, orientation)
    Image.fromarray(shown.contiguous().numpy()).save(folder / f"{name}_mask.png")


def exif_data(folder: Path) -> PairedDataset:
    masks = sorted(folder.glob("*_mask.png"))
    images = [folder / path.name.replace("_mask", "") for path in masks]
    return PairedDataset(images, masks, Classes.numbered(2))


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_masks_fit_images_as_shown_or_as_stored(
    tmp_path: Path, orientation: int, stored: bool
) -> None:
    exif_pair(tmp_path, orientation, (5, 8), stored=stored)
    image, mask = (data := exif_data(tmp_path)).read(0)
    assert torch.equal(image[0] // 255, mask)
    (finding,) = [
        f for f in check(lambda split: data, ["val"]).findings if f.kind == "orientation"
    ] or [None]
    assert (finding is not None) == stored
    assert finding is None or "1 mask that fit the pixels as stored" in finding.message


def test_a_mask_that_may_fit_either_way_is_an_error_where_others_fit_as_stored(
    tmp_path: Path,
) -> None:
    exif_pair(tmp_path, 6, (6, 6), stored=False)
    exif_pair(tmp_path, 3, (5, 8), stored=False)
    (alone,) = quick_check(exif_data(tmp_path))
    assert "2 images with an EXIF orientation, which is applied; check" in alone.message
    exif_pair(tmp_path, 6, (5, 8), stored=True)
    with pytest.raises(UserError, match="though other masks fit the pixels as stored"):
        quick_check(exif_data(tmp_path))


def test_labels_that_are_no_image_are_checked_too(tmp_path: Path) -> None:
    class Polygons(PairedDataset):
        def read_mask(self, path: Path) -> torch.Tensor:
            return torch.tensor([[0, 1, 1]] * 3, dtype=torch.uint8)

    exif_pair(tmp_path, 6, (3, 3), stored=False)
    (tmp_path / "a.json").write_text("{}")
    data = Polygons([next(tmp_path.glob("*False.png"))], [tmp_path / "a.json"], Classes.numbered(2))
    (finding,) = quick_check(data)
    assert "1 image with an EXIF orientation" in finding.message


def test_check_says_the_range_and_draws_the_sheet(tmp_path: Path) -> None:
    tiff(tmp_path / "a.tif", values(5, 8, 8))
    data = dataset(tmp_path)
    report = check(lambda split: data, ["train"])
    assert report.images is not None
    assert report.images.startswith("images: 8 channels of more than 8 bits, values from ")
    assert report.ok, report.findings
    write_contact_sheet({"train": data}, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert np.asarray(sheet)[:100, :200].std() > 20  # not black
