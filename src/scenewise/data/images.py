"""Reading pictures and masks from files, and saying plainly what is wrong with them."""

import io
import os
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from scenewise.errors import UserError

try:  # the extra "fast"
    import pyspng
    import simplejpeg
except ImportError:
    pyspng = simplejpeg = None

Path = str | os.PathLike[str]
ImageLike = str | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
ORIENTATION = 0x0112  # the EXIF tag
# What is opened, whatever a file is called. PIL knows kinds that start other programs (EPS).
KINDS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
# Parts of a PNG that mean nothing here; others may turn it, unpack to much, or start an animation.
_PLAIN_CHUNKS = {b"IHDR", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tIME", b"sBIT"}
_PNG_GREY, _PNG_RGB = 0, 2


def read_image(path: Path) -> Tensor:
    """The picture in file ``path``: (3, H, W), uint8, RGB, turned as its EXIF orientation says.

    What the file holds decides, not its name. Grey and CMYK are converted, transparency is dropped,
    16 bits are cut to the upper 8, of an animation the first picture is taken. The
    tensor may be a view of rows of (red, green, blue) triples, which is how decoders give it.

    Raises:
        UserError: no such file, not a picture, cut off, or too large to be real.
    """
    return decode_image(_content(path, "picture"), path)


def as_floats(image: ImageLike) -> Tensor:
    """A picture of any kind as (3, H, W), RGB, float32 (or wider) in 0..1.

    Raises:
        UserError: a file that is no picture, another shape or type, values outside 0..1.

    >>> as_floats(np.zeros((5, 7, 3), np.uint8)).shape
    torch.Size([3, 5, 7])
    """
    if isinstance(image, str | os.PathLike):
        return read_image(image) / 255
    if isinstance(image, Image.Image):
        return to_rgb(ImageOps.exif_transpose(image)) / 255
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3:
            raise UserError(f"an array of a picture is (H, W, 3), not {image.shape}; convert it")
        image = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    return _checked(image)


def _checked(image: Tensor) -> Tensor:
    if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise UserError(
            f"a tensor of a picture is (3, H, W), not {tuple(image.shape)}; convert it, a batch "
            "one by one"
        )
    if image.dtype == torch.uint8:
        return image / 255
    if not image.is_floating_point():
        raise UserError(f"a picture is uint8 or floats in 0..1, not {image.dtype}; convert it")
    low, high = float(image.min()), float(image.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # also false for NaN
        raise UserError(
            f"a picture of floats is in 0..1, this one holds {low:g} to {high:g}; scale it, and "
            "leave the normalisation to the model"
        )
    return image.to(torch.promote_types(image.dtype, torch.float32))


def decode_image(content: bytes, path: Path) -> Tensor:
    """:func:`read_image` of a file's ``content``; errors name ``path``."""
    return _decode(content, path, "picture", lambda picture: _to_image(picture, content))


def _to_image(picture: Image.Image, content: bytes) -> Tensor:
    """The fastest safe decoder's result; PIL is what decides where another one refuses."""
    try:
        if pyspng and picture.format == "PNG" and _is_plain_png(content, _PNG_RGB):
            return torch.from_numpy(pyspng.load(content)).permute(2, 0, 1)
        if simplejpeg and _is_plain_jpeg(picture):
            return torch.from_numpy(simplejpeg.decode_jpeg(content)).permute(2, 0, 1)
    except (RuntimeError, ValueError):
        pass
    return to_rgb(ImageOps.exif_transpose(picture) if _is_turned(picture) else picture)


def _is_plain_png(content: bytes, color: int) -> bool:
    """Whether it has 8 bits and this kind of colour, no interlacing and plain chunks alone."""
    if content[24:29] != bytes([8, color, 0, 0, 0]):
        return False
    chunk = 8
    while chunk + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, chunk)
        if name not in _PLAIN_CHUNKS:
            return False
        chunk += 12 + length
    return True


def _is_plain_jpeg(picture: Image.Image) -> bool:
    return picture.format == "JPEG" and picture.mode == "RGB" and not _is_turned(picture)


def _is_turned(picture: Image.Image) -> bool:
    return bool(picture.getexif().get(ORIENTATION, 1) != 1)


def to_rgb(picture: Image.Image) -> Tensor:
    """A PIL picture of any mode as a tensor: (3, H, W), uint8, RGB.

    >>> to_rgb(Image.new("L", (5, 2), 7))[:, 1, 4]
    tensor([7, 7, 7], dtype=torch.uint8)
    """
    if picture.mode == "F":
        raise UserError("a picture of floating-point values has no known range; save it as 8 bits")
    if picture.mode.startswith("I"):
        grey = np.clip(np.asarray(picture).astype(np.int64), 0, 65535) >> 8
        return torch.from_numpy(grey.astype(np.uint8)).expand(3, -1, -1).contiguous()
    if picture.mode == "P":  # a palette may hold transparent colours
        picture = picture.convert("RGBA")
    rgb = np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))
    return torch.from_numpy(rgb).permute(2, 0, 1)


def read_mask(path: Path) -> Tensor:
    """The class ids in file ``path``: (H, W), uint8; an indexed picture gives its indices.

    An EXIF orientation is followed, as in pictures.

    Raises:
        UserError: as :func:`read_image`; also a picture of colours, a JPEG, whose ids are blurred,
            2 or 4 bits of grey, which decoders stretch to 8, or ids above 255.
    """
    return decode_mask(_content(path, "mask"), path)


def decode_mask(content: bytes, path: Path) -> Tensor:
    """:func:`read_mask` of a file's ``content``; errors name ``path``."""

    def convert(picture: Image.Image) -> Tensor:
        with Image.open(io.BytesIO(content), formats=KINDS) as again:
            again.verify()  # the decoder does not check the last bytes of a PNG
        if pyspng and picture.format == "PNG" and _is_plain_png(content, _PNG_GREY):
            return torch.from_numpy(pyspng.load(content))
        return to_ids(picture, path)

    return _decode(content, path, "mask", convert)


def to_ids(picture: Image.Image, path: Path) -> Tensor:
    """The class ids in a PIL picture that comes from ``path``; see :func:`read_mask`."""
    if picture.format in ("JPEG", "MPO"):
        raise UserError(
            f"mask '{os.fspath(path)}' is a JPEG picture, which blurs ids; write it as PNG"
        )
    tile = next(iter(getattr(picture, "tile", [])), None)
    if tile is not None and tile[3] in ("L;2", "L;4"):
        raise UserError(
            f"mask '{os.fspath(path)}' has {tile[3][2]} bits of grey a pixel, from which ids "
            "cannot be told; write it with 8 bits"
        )
    if picture.mode not in ("L", "P", "1") and not picture.mode.startswith("I"):
        raise UserError(
            f"mask '{os.fspath(path)}' is a colour picture ({picture.mode}); write one byte a "
            "pixel, the class id, instead"
        )
    ids = np.array(ImageOps.exif_transpose(picture) if _is_turned(picture) else picture)
    if ids.dtype not in (np.uint8, np.bool_) and (ids.min() < 0 or ids.max() > 255):
        raise UserError(
            f"mask '{os.fspath(path)}' holds ids from {ids.min()} to {ids.max()}; use ids 0 to 255"
        )
    return torch.from_numpy(ids.astype(np.uint8, copy=False))


def _content(path: Path, what: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise UserError(f"no such {what}: '{os.fspath(path)}'; check the path") from error
    except OSError as error:
        raise _unreadable(path, what, error) from error


def _decode(
    content: bytes, path: Path, what: str, convert: Callable[[Image.Image], Tensor]
) -> Tensor:
    try:
        with Image.open(io.BytesIO(content), formats=KINDS) as picture:
            return convert(picture)
    except UserError as error:
        if os.fspath(path) in str(error):
            raise
        raise UserError(f"{what} '{os.fspath(path)}': {error}") from error
    except UnidentifiedImageError as error:
        raise _unreadable(path, what, "it is no picture of a known kind") from error
    except Exception as error:  # decoders of broken files raise errors of many kinds
        raise _unreadable(path, what, error) from error


def _unreadable(path: Path, what: str, reason: object) -> UserError:
    return UserError(
        f"cannot read {what} '{os.fspath(path)}' ({reason}); replace or remove the file"
    )
