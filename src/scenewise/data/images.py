"""Reading images and masks: files, bytes, PIL images and arrays to tensors, with checks.

Reading a file is decoding (``_decode``, which uses the fastest decoder that is safe) and conversion
(``to_rgb`` for images, ``to_ids`` for masks).
"""

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

_Path = str | os.PathLike[str]
ImageLike = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any] | Tensor
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
# File types that are opened, whatever a file is called: PIL's EPS reader starts other programs.
KINDS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
# PNG chunks without effect on the pixels; others may rotate, unpack to much, or start an animation.
_PLAIN_CHUNKS = {b"IHDR", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tIME", b"sBIT"}
_PNG_GREY, _PNG_RGB = 0, 2  # the colour type in a PNG's header
_ORIENTATION = 0x0112  # EXIF tag


def read_image(path: _Path) -> Tensor:
    """The image in file ``path``: (3, H, W), uint8, RGB, rotated as its EXIF orientation says.

    The content decides the type, not the name. Grey and CMYK are converted, transparency is
    dropped, 16 bits are reduced to the upper 8, of an animation the first frame is read. The tensor
    may be a view of rows of (red, green, blue) triples, which is how decoders return it.

    Raises:
        UserError: the file is missing, not an image, truncated, or too large to be real.
    """
    return decode_image(_content(path, "image"), path)


def read_mask(path: _Path) -> Tensor:
    """The class ids in file ``path``: (H, W), uint8; an indexed image gives its indices.

    An EXIF orientation is followed, as in images.

    Raises:
        UserError: as :func:`read_image`; also a colour image, a JPEG, whose ids are blurred, 2 or 4
            bits of grey, which decoders stretch to 8, or ids above 255.
    """
    return decode_mask(_content(path, "mask"), path)


def as_floats(image: ImageLike) -> Tensor:
    """An image of any type as (3, H, W), RGB, float32 (or wider) in 0..1.

    A file, also as its bytes, and a PIL image of any mode are converted as by :func:`read_image`.
    An array must be (H, W, 3) and a tensor (3, H, W): which axis holds the colours, and what a
    fourth channel means, is not guessed.

    Raises:
        UserError: the file is not an image, the shape or type is unsupported, or values are outside
            0..1.

    >>> as_floats(np.zeros((5, 7, 3), np.uint8)).shape
    torch.Size([3, 5, 7])
    """
    if isinstance(image, str | os.PathLike):
        return read_image(image) / 255
    if isinstance(image, bytes):
        return decode_image(image, "bytes") / 255
    if isinstance(image, Image.Image):
        return to_rgb(ImageOps.exif_transpose(image)) / 255
    if isinstance(image, np.ndarray):
        return _tensor_as_floats(_array_as_tensor(image))
    if isinstance(image, Tensor):
        return _tensor_as_floats(image)
    raise UserError(
        "an image is a path, a file's bytes, a PIL image, an array or a tensor, not "
        f"{type(image).__name__}; convert it"
    )


def _array_as_tensor(image: NDArray[Any]) -> Tensor:
    """(H, W, 3) -> (3, H, W)."""
    if image.ndim != 3 or image.shape[2] != 3:
        raise UserError(
            f"an image array must be (H, W, 3), not {image.shape}; of grey give np.dstack([image] "
            "* 3), of RGBA image[..., :3], of channels first image.transpose(1, 2, 0), of a batch "
            "list(image)"
        )
    if image.shape[0] == 3:
        raise UserError(
            f"an image array of shape {image.shape} may have its colours first or last; give "
            "PIL's Image.fromarray for colours last, a tensor for colours first"
        )
    try:
        return torch.from_numpy(np.require(image, requirements=("C", "W"))).permute(2, 0, 1)
    except (TypeError, ValueError) as error:  # a dtype or byte order that PyTorch lacks
        raise _not_uint8_or_float(image.dtype) from error


def _tensor_as_floats(image: Tensor) -> Tensor:
    if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise UserError(
            f"an image tensor must be (3, H, W), not {tuple(image.shape)}; of grey give "
            "image.expand(3, -1, -1), of RGBA image[:3], of channels last image.permute(2, 0, 1), "
            "of a batch list(image)"
        )
    if image.dtype == torch.uint8:
        return image / 255
    if not image.is_floating_point():
        raise _not_uint8_or_float(image.dtype)
    low, high = float(image.min()), float(image.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # rounding is allowed; also false for NaN
        raise UserError(
            f"an image of floats must be in 0..1, not {low:g} to {high:g}; scale it, and leave the "
            "normalisation to the model"
        )
    return image.to(torch.promote_types(image.dtype, torch.float32))


def _not_uint8_or_float(dtype: object) -> UserError:
    return UserError(f"an image must be uint8 or floats in 0..1, not {dtype}; convert it")


def decode_image(content: bytes, path: _Path) -> Tensor:
    """:func:`read_image` of a file's ``content``; errors name ``path``."""
    return _decode(content, path, "image", lambda image: _to_image(image, content))


def decode_mask(content: bytes, path: _Path) -> Tensor:
    """:func:`read_mask` of a file's ``content``; errors name ``path``."""

    def convert(image: Image.Image) -> Tensor:
        with Image.open(io.BytesIO(content), formats=KINDS) as again:
            again.verify()  # the decoder does not check the last bytes of a PNG
        if pyspng and image.format == "PNG" and _is_plain_png(content, _PNG_GREY):
            return torch.from_numpy(pyspng.load(content))
        return to_ids(image, path)

    return _decode(content, path, "mask", convert)


def to_rgb(image: Image.Image) -> Tensor:
    """A PIL image of any mode as a tensor: (3, H, W), uint8, RGB.

    >>> to_rgb(Image.new("L", (5, 2), 7))[:, 1, 4]
    tensor([7, 7, 7], dtype=torch.uint8)
    """
    if image.mode == "F":
        raise UserError("an image of floating-point values has no known range; save it as 8 bits")
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8  # the upper 8 of 16 bits
        return torch.from_numpy(grey.astype(np.uint8)).expand(3, -1, -1).contiguous()
    if image.mode == "P":  # a palette may hold transparent colours
        image = image.convert("RGBA")
    rgb = np.array(image if image.mode == "RGB" else image.convert("RGB"))  # (H, W, 3)
    return torch.from_numpy(rgb).permute(2, 0, 1)  # (3, H, W)


def to_ids(image: Image.Image, path: _Path) -> Tensor:
    """The class ids in a PIL image that comes from ``path``; see :func:`read_mask`."""
    name = f"mask '{os.fspath(path)}'"
    if image.format in ("JPEG", "MPO"):
        raise UserError(f"{name} is a JPEG, which blurs class ids; save it as PNG")
    tile = next(iter(getattr(image, "tile", [])), None)
    if tile is not None and tile[3] in ("L;2", "L;4"):  # PIL's raw mode, before it is stretched
        raise UserError(
            f"{name} has {tile[3][2]} bits of grey a pixel, whose class ids are ambiguous; save it "
            "with 8 bits"
        )
    if image.mode not in ("L", "P", "1") and not image.mode.startswith("I"):
        raise UserError(
            f"{name} is a colour image ({image.mode}); save one byte a pixel, the class id, instead"
        )
    ids = np.array(ImageOps.exif_transpose(image) if is_rotated(image) else image)  # (H, W)
    if ids.dtype not in (np.uint8, np.bool_) and (ids.min() < 0 or ids.max() > 255):
        raise UserError(f"{name} holds ids from {ids.min()} to {ids.max()}; use ids 0 to 255")
    return torch.from_numpy(ids.astype(np.uint8, copy=False))


def is_rotated(image: Image.Image) -> bool:
    """Whether a PIL image has an EXIF orientation other than the usual one."""
    return bool(image.getexif().get(_ORIENTATION, 1) != 1)


def _to_image(image: Image.Image, content: bytes) -> Tensor:
    """Decode with the fastest safe decoder; PIL where that one refuses."""
    try:
        if pyspng and image.format == "PNG" and _is_plain_png(content, _PNG_RGB):
            return torch.from_numpy(pyspng.load(content)).permute(2, 0, 1)  # (3, H, W)
        plain_jpeg = image.format == "JPEG" and image.mode == "RGB" and not is_rotated(image)
        if simplejpeg and plain_jpeg:
            return torch.from_numpy(simplejpeg.decode_jpeg(content)).permute(2, 0, 1)  # (3, H, W)
    except (RuntimeError, ValueError):
        pass
    return to_rgb(ImageOps.exif_transpose(image) if is_rotated(image) else image)


def _is_plain_png(content: bytes, color: int) -> bool:
    """Whether a PNG has 8 bits of this colour type, no interlacing and plain chunks alone."""
    if content[24:29] != bytes([8, color, 0, 0, 0]):  # of IHDR, behind width and height
        return False
    chunk = 8  # behind the signature
    while chunk + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, chunk)
        if name not in _PLAIN_CHUNKS:
            return False
        chunk += 12 + length  # length, name, data, checksum
    return True


def _content(path: _Path, what: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise UserError(f"{what} '{os.fspath(path)}' not found; check the path") from error
    except OSError as error:
        raise _unreadable(path, what, error) from error


def _decode(
    content: bytes, path: _Path, what: str, convert: Callable[[Image.Image], Tensor]
) -> Tensor:
    try:
        with Image.open(io.BytesIO(content), formats=KINDS) as image:
            return convert(image)
    except UserError as error:
        if os.fspath(path) in str(error):
            raise
        raise UserError(f"{what} '{os.fspath(path)}': {error}") from error
    except UnidentifiedImageError as error:
        raise _unreadable(path, what, "not an image of a supported type") from error
    except Exception as error:  # decoders raise many types for damaged files
        raise _unreadable(path, what, error) from error


def _unreadable(path: _Path, what: str, reason: object) -> UserError:
    return UserError(
        f"cannot read {what} '{os.fspath(path)}' ({reason}); replace or remove the file"
    )
