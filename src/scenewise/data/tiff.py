"""TIFF files that Pillow cannot read as stored: more than 8 bits, many channels, several pages.

Pillow refuses images of five or more channels, reduces colours of 16 bits to 8, and takes the first
page of several, each without a word. tifffile reads what is stored.
"""

import io
import logging
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffFrame, TiffPage, imwrite
from torch import Tensor

from scenewise.errors import UserError

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # errors are raised, not printed

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF and BigTIFF in both byte orders
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType: overviews, and masks of transparency
_ALPHA = (1, 2)  # values of ExtraSamples
_NO_DATA = 42113  # GDAL's tag
_ORIENTATION = 274
_MOST_PAGES = 4096
_MOST_BYTES = 2**33
_GREY = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)


class Raw(NamedTuple):
    """What a file holds, before channels are chosen.

    Attributes:
        values: (C, H, W), uint8; float32 for anything wider, exact for integers below 2**24.
        rgb: whether the first three channels are red, green and blue.
        alpha: indices of channels that hold transparency.
        orientation: as in EXIF, not yet applied; 1 for none.
    """

    values: Tensor
    rgb: bool
    alpha: tuple[int, ...] = ()
    orientation: int = 1


class Kind(NamedTuple):
    """What a file holds, from its header.

    Attributes:
        channels: their number, without alpha.
        alpha: how many channels hold transparency.
        rgb: whether the first three are red, green and blue.
        wide: more than 8 bits a channel, or floats.
    """

    channels: int
    alpha: int
    rgb: bool
    wide: bool


def is_tiff(content: bytes) -> bool:
    """Whether a file's content starts as a TIFF."""
    return content[:4] in _MAGIC


def tiff_kind(content: bytes, *, pages: bool = False) -> Kind | None:
    """The header of a TIFF; None if Pillow reads the file as it is stored.

    Raises:
        UserError: as :func:`read_tiff`.
    """
    with TiffFile(io.BytesIO(content)) as file:
        chosen = _pages(file, pages)
        if _is_for_pillow(chosen):
            return None
        alpha = len(_alpha(chosen[0])) * len(chosen)
        channels = chosen[0].samplesperpixel * len(chosen) - alpha
        return Kind(channels, alpha, _is_rgb(chosen), chosen[0].dtype != np.uint8)


def read_tiff(content: bytes, *, pages: bool = False) -> Raw | None:
    """The image in a TIFF's ``content``; None if Pillow reads it as it is stored.

    Overviews, previews and masks of transparency are no pages. Values that GDAL's tag declares
    missing, and those that are not finite, become the smallest other value of the image.

    Args:
        content: of the file.
        pages: whether pages are channels of one image.

    Raises:
        UserError: several pages without ``pages``, pages that differ, a palette or inks of more
            than 8 bits, or a compression that needs the extra ``tiff``.
    """
    with TiffFile(io.BytesIO(content)) as file:
        chosen = _pages(file, pages)
        if _is_for_pillow(chosen):
            return None
        layers = [_channels_first(page) for page in chosen]
        values, count = np.concatenate(layers), chosen[0].samplesperpixel
        alpha = tuple(count * k + i for k in range(len(chosen)) for i in _alpha(chosen[0]))
        tag = chosen[0].tags.get(_NO_DATA)
        missing = None if tag is None else float(str(tag.value).strip("\0 "))
        return Raw(as_stored(values, missing), _is_rgb(chosen), alpha, _orientation(chosen[0]))


def tiff_size(content: bytes) -> tuple[int, int]:
    """Height and width of the first page."""
    with TiffFile(io.BytesIO(content)) as file:
        page = file.pages[0].aspage()
        return page.imagelength, page.imagewidth


def tiff_orientation(content: bytes) -> int:
    """The orientation of the first page, 1 to 8."""
    with TiffFile(io.BytesIO(content)) as file:
        return _orientation(file.pages[0])


def _orientation(page: TiffPage | TiffFrame) -> int:
    tag = page.aspage().tags.get(_ORIENTATION)
    return int(tag.value) if tag is not None and tag.value in range(1, 9) else 1


def encode_tiff(image: Tensor) -> bytes:
    """A TIFF of an image (C, H, W), uint8 or float32, whose three channels are colours."""
    content = io.BytesIO()
    if len(image) == 1:
        imwrite(content, image[0].numpy(), photometric="minisblack")
    else:
        kind = "rgb" if len(image) == 3 else "minisblack"
        imwrite(content, image.permute(1, 2, 0).numpy(), photometric=kind, planarconfig="contig")
    return content.getvalue()


def as_stored(values: NDArray[np.generic], missing: float | None = None) -> Tensor:
    """uint8 as it is, wider values as float32; missing ones become the smallest other one.

    >>> as_stored(np.array([[[7, -9999, 300]]], np.int16), missing=-9999)
    tensor([[[  7.,   7., 300.]]])
    """
    if values.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(values))
    floats = values.astype(np.float32)
    known = np.isfinite(floats)
    if missing is not None:
        known &= floats != np.float32(missing)
    if not known.all():
        floats[~known] = floats[known].min() if known.any() else 0
    return torch.from_numpy(floats)


def _pages(file: TiffFile, all_of_them: bool) -> list[TiffPage]:
    """The pages that hold the image."""
    found: list[TiffPage] = []
    for index, page in enumerate(file.pages):
        if index >= _MOST_PAGES:
            raise UserError(f"it claims more than {_MOST_PAGES} pages; save it as one image")
        assert isinstance(page, TiffPage)
        if not int(page.subfiletype) & (_REDUCED | _MASK):
            found.append(page)
    if not found:
        raise UserError("it holds only overviews; save it as one image")
    first = found[0]
    _check_size(first, len(found))
    same = [page for page in found if (page.shape, page.dtype) == (first.shape, first.dtype)]
    others = [page for page in found if page.imagewidth >= first.imagewidth and page not in same]
    if len(same) + len(others) == 1:  # smaller pages are previews
        return same
    if not all_of_them:
        raise UserError(
            f"it holds {len(same) + len(others)} pages; give --data.pages channels if they are the "
            "channels of one image, else save each page as a file of its own"
        )
    if others:
        raise UserError("its pages differ in size or type; save them as the channels of one image")
    return same


def _check_size(page: TiffPage, pages: int) -> None:
    pixels = page.imagewidth * page.imagelength
    claimed = page.nbytes * pages
    limit = Image.MAX_IMAGE_PIXELS or pixels
    if pixels > 2 * limit or claimed > _MOST_BYTES:  # as Pillow
        raise UserError(
            f"it claims {pixels:,} pixels, which could be a decompression bomb; if it is "
            "really so large, predict --raster yes labels it block by block"
        )


def _is_for_pillow(pages: list[TiffPage]) -> bool:
    """Whether Pillow reads one page as stored: 8-bit colours, or one channel; all compressions."""
    page, count = pages[0], pages[0].samplesperpixel
    if len(pages) > 1:
        return False
    if page.dtype in (np.dtype(np.uint8), np.dtype(bool)):
        colors = page.photometric not in (*_GREY, PHOTOMETRIC.RGB)  # palettes, inks, JPEG's YCbCr
        return colors or count in (1, 3) or (count in (2, 4) and _alpha(page) == (count - 1,))
    if page.photometric not in (*_GREY, PHOTOMETRIC.RGB):
        kind = f"{PHOTOMETRIC(page.photometric).name.lower()} image of {page.bitspersample} bits"
        raise UserError(f"it is a {kind}, which is not supported; save it as RGB or grey")
    return count == 1 and page.dtype in (np.uint16, np.float32) and _NO_DATA not in page.tags


def _alpha(page: TiffPage) -> tuple[int, ...]:
    """Which channels of a page hold transparency."""
    first = page.samplesperpixel - len(page.extrasamples)
    return tuple(first + i for i, extra in enumerate(page.extrasamples) if int(extra) in _ALPHA)


def _is_rgb(pages: list[TiffPage]) -> bool:
    return pages[0].photometric == PHOTOMETRIC.RGB and pages[0].samplesperpixel >= 3


def _channels_first(page: TiffPage) -> NDArray[np.generic]:
    """The values of one page, (C, H, W)."""
    try:
        values = page.asarray(maxworkers=1)
    except ValueError as error:
        if "imagecodecs" in str(error):
            raise UserError(
                f"it is compressed with {COMPRESSION(page.compression).name}; run: pip install "
                "'scenewise[tiff]', or save it without compression"
            ) from error
        raise
    if page.axes == "YX":
        return values[None]
    if page.axes == "YXS":
        return np.moveaxis(values, 2, 0)
    if page.axes == "SYX":
        return values
    raise UserError(f"it has the axes {page.axes}, which is not an image; save slices as images")
