"""Reading images and masks: files, bytes, PIL images and arrays to tensors, with checks.

Reading a file is decoding (with the fastest decoder that is safe), choosing the channels of a
:class:`Layout`, and for masks conversion to ids.
"""

import io
import os
import struct
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from scenewise.data.layout import RGB, Layout
from scenewise.data.tiff import (
    Kind,
    Raw,
    as_stored,
    encode_tiff,
    is_tiff,
    read_tiff,
    tiff_kind,
    tiff_orientation,
)
from scenewise.errors import UserError

try:  # the extra "fast"
    import pyspng
    import simplejpeg
except ImportError:
    pyspng = simplejpeg = None

_T = TypeVar("_T")
_Path = str | os.PathLike[str]
ImageLike = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any] | Tensor
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# File types that are opened, whatever a file is called: PIL's EPS reader starts other programs.
KINDS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
# PNG chunks without effect on the pixels; others may rotate, unpack to much, or start an animation.
_PLAIN_CHUNKS = {b"IHDR", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tIME", b"sBIT"}
_PNG_GREY, _PNG_RGB, _PNG_GREY_ALPHA = 0, 2, 4  # the colour type in a PNG's header
_ORIENTATION = 0x0112  # EXIF tag
_BACKWARDS = {  # columns, rows
    2: (True, False),
    3: (True, True),
    4: (False, True),
    6: (True, False),
    7: (True, True),
    8: (False, True),
}
_WIDE = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")  # PIL's modes of one channel
_EIGHT_BITS = (
    "has 8 bits a channel, and values of more bits are expected as in the training; give the image "
    "with its original bits"
)


def read_image(path: _Path, layout: Layout = RGB) -> Tensor:
    """The image in file ``path``: (C, H, W), rotated as its EXIF orientation says.

    The content decides the type, not the name. By default (3, H, W), uint8, RGB: grey and CMYK are
    converted, transparency is dropped, of an animation the first frame is read. Values of a
    ``wide`` layout are those of the file, as float32. The tensor may be a view of rows of
    (red, green, blue) triples, which is how decoders return it.

    Raises:
        UserError: the file is missing, not an image, truncated, too large to be real, or has other
            channels or bits than ``layout``.
    """
    return decode_image(_content(path, "image"), path, layout)


def image_kind(path: _Path, *, pages: bool = False) -> Kind:
    """Channels and bits of the image in file ``path``, from its header.

    Raises:
        UserError: as :func:`read_image`.
    """
    return content_kind(_content(path, "image"), path, pages=pages)


def orientation_of(path: _Path) -> int:
    """The EXIF orientation of the image in file ``path``, 1 to 8; 1 if it has none."""
    content = _content(path, "image")
    if is_tiff(content):
        return _guarded(lambda: tiff_orientation(content), path)
    return _decode(content, path, "image", _turn)


def content_kind(content: bytes, path: _Path, *, pages: bool = False) -> Kind:
    """:func:`image_kind` of a file's ``content``; ``pages``: of a TIFF are channels."""

    def of_tiff() -> Kind | None:
        return tiff_kind(content, pages=pages) if is_tiff(content) else None

    return _guarded(of_tiff, path) or _decode(
        content, path, "image", lambda i: pil_kind(i, content)
    )


def read_mask(path: _Path) -> Tensor:
    """The class ids in file ``path``: (H, W), uint8; an indexed image gives its indices.

    An EXIF orientation is followed, as in images.

    Raises:
        UserError: as :func:`read_image`; also a colour image, a JPEG, whose ids are blurred, 2 or 4
            bits of grey, which decoders stretch to 8, or ids above 255.
    """
    return decode_mask(_content(path, "mask"), path)


def as_values(image: ImageLike, layout: Layout = RGB) -> Tensor:
    """An image of any type as (C, H, W), float32 or wider: 0..1, or values of a ``wide`` layout.

    A file, also as its bytes, and a PIL image of any mode are converted as by :func:`read_image`.
    An array must be (H, W, C) and a tensor (C, H, W): which axis holds the channels, and what a
    fourth one means, is not guessed.

    Raises:
        UserError: the file is not an image, the shape or type is unsupported, or values are outside
            0..1.

    >>> as_values(np.zeros((5, 7, 3), np.uint8)).shape
    torch.Size([3, 5, 7])
    """
    if isinstance(image, str | os.PathLike):
        return _as_floats(read_image(image, layout), layout)
    if isinstance(image, bytes):
        return _as_floats(decode_image(image, "bytes", layout), layout)
    if isinstance(image, Image.Image):
        return _as_floats(image_of(image, layout), layout)
    if isinstance(image, np.ndarray):
        return _as_floats(_array_as_tensor(image, layout), layout)
    if isinstance(image, Tensor):
        return _as_floats(image, layout)
    raise UserError(
        "an image is a path, a file's bytes, a PIL image, an array or a tensor, not "
        f"{type(image).__name__}; convert it"
    )


def as_floats(image: ImageLike) -> Tensor:
    """:func:`as_values` of an RGB image: (3, H, W), in 0..1."""
    return as_values(image, RGB)


def _array_as_tensor(image: NDArray[Any], layout: Layout) -> Tensor:
    """(H, W, C) -> (C, H, W)."""
    if image.ndim == 2 and layout.count == 1:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] != layout.count:
        advice = (
            "of grey give np.dstack([image] * 3), of RGBA image[..., :3], of channels first "
            "image.transpose(1, 2, 0), of a batch list(image)"
            if layout.rgb
            else "give the channels of the training, last"
        )
        raise UserError(
            f"an image array must be (H, W, {layout.count}), not {image.shape}; {advice}"
        )
    if image.shape[0] == layout.count:
        raise UserError(
            f"an image array of shape {image.shape} may have its colours first or last; give "
            "PIL's Image.fromarray for colours last, a tensor for colours first"
        )
    if layout.wide and image.dtype != np.uint8:
        image = image.astype(np.float32, copy=False)
    try:
        return torch.from_numpy(np.require(image, requirements=("C", "W"))).permute(2, 0, 1)
    except (TypeError, ValueError) as error:  # a dtype or byte order that PyTorch lacks
        raise _not_uint8_or_float(image.dtype) from error


def _as_floats(image: Tensor, layout: Layout) -> Tensor:
    count = layout.count
    if image.ndim != 3 or image.shape[0] != count or image.numel() == 0:
        advice = (
            "of grey give image.expand(3, -1, -1), of RGBA image[:3], of channels last "
            "image.permute(2, 0, 1), of a batch list(image)"
            if layout.rgb
            else "give the channels of the training, first"
        )
        raise UserError(
            f"an image tensor must be ({count}, H, W), not {tuple(image.shape)}; {advice}"
        )
    if layout.wide:
        if image.dtype == torch.uint8:
            raise UserError(f"the image {_EIGHT_BITS}")
        values = image.to(torch.promote_types(image.dtype, torch.float32))
        if not values.isfinite().all():
            raise UserError("the image holds values that are not finite; replace them")
        return values
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


def to_display(
    image: Tensor,
    value_range: tuple[float, float] | None = None,
    shown: tuple[int, ...] | None = None,
    moments: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Tensor:
    """What people see of an image (C, H, W): (3, H, W), uint8, RGB.

    Args:
        image: uint8, or values of a sensor.
        value_range: the values that become black and white; None for uint8.
        shown: the channels for red, green and blue; None for the first three, of fewer the first.
        moments: mean and standard deviation of each channel in that range: two deviations to each
            side are shown, since one channel may be much darker than others.

    >>> to_display(torch.tensor([[[0.0, 1000, 4000, 9999]]]), (0, 4000))[2].tolist()
    [[0, 64, 255, 255]]
    """
    three = shown or ((0, 1, 2) if len(image) >= 3 else (0, 0, 0))
    colors = image if three == (0, 1, 2) and len(image) == 3 else image[list(three)]
    if value_range is None:
        return colors
    low, high = value_range
    unit = colors.sub(low).div(high - low)
    if moments is not None:
        mean, std = (unit.new_tensor([m[k] for k in three]).view(3, 1, 1) for m in moments)
        unit = 0.5 + (unit - mean) / (4 * std)
    return unit.mul(255).clamp(0, 255).round().to(torch.uint8)


def decode_image(content: bytes, path: _Path, layout: Layout = RGB) -> Tensor:
    """:func:`read_image` of a file's ``content``; errors name ``path``."""

    def of_tiff() -> Tensor | None:
        raw = read_tiff(content, pages=layout.pages) if is_tiff(content) else None
        return None if raw is None else turned(chosen_channels(raw, layout), raw.orientation)

    values = _guarded(of_tiff, path)
    if values is not None:
        return values
    return _decode(content, path, "image", lambda image: _to_image(image, content, layout))


def encode_image(image: Tensor) -> tuple[str, bytes]:
    """A file's suffix and content for an image (C, H, W): PNG for 8-bit RGB or grey, else TIFF.

    >>> encode_image(torch.zeros(5, 2, 3))[0]
    '.tif'
    """
    content = io.BytesIO()
    if image.dtype == torch.uint8 and len(image) in (1, 3):
        pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)  # (H, W) or (H, W, 3)
        Image.fromarray(pixels.numpy()).save(content, format="PNG")
        return ".png", content.getvalue()
    return ".tif", encode_tiff(image)


def decode_mask(content: bytes, path: _Path) -> Tensor:
    """:func:`read_mask` of a file's ``content``; errors name ``path``."""

    def convert(image: Image.Image) -> Tensor:
        with Image.open(io.BytesIO(content), formats=KINDS) as again:
            again.verify()  # the decoder does not check the last bytes of a PNG
        if pyspng and image.format == "PNG" and _is_plain_png(content, _PNG_GREY):
            return torch.from_numpy(pyspng.load(content))
        return to_ids(image, path)

    return _decode(content, path, "mask", convert)


def image_of(image: Image.Image, layout: Layout = RGB) -> Tensor:
    """A PIL image as :func:`read_image` returns it, turned as its EXIF orientation says.

    Raises:
        UserError: as :func:`read_image`; PIL is about to reduce 16 bits to 8.

    >>> image_of(Image.new("L", (5, 2), 7))[:, 1, 4]
    tensor([7, 7, 7], dtype=torch.uint8)
    """
    if (
        any("16" in str(args) for *_, args in getattr(image, "tile", ()))
        and image.mode not in _WIDE
    ):
        raise UserError("PIL reduces its 16 bits to 8; give the path of the file instead")
    return chosen_channels(_raw(ImageOps.exif_transpose(image), b""), layout)


def _raw(image: Image.Image, content: bytes) -> Raw:
    """The channels of a PIL image of any mode; ``content`` is its file, if there is one."""
    if image.format == "PNG" and content[24:25] == b"\x10" and image.mode not in _WIDE:
        return _sixteen_bit_png(image, content)
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode == "P":  # a palette may hold transparent colours
        image = image.convert("RGBA").convert("RGB")
    elif image.mode not in ("L", "LA", "RGB", "RGBA", *_WIDE):
        image = image.convert("RGB")
    values = np.array(image)  # (H, W) or (H, W, C)
    values = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)  # (C, H, W)
    alpha = (len(values) - 1,) if image.mode in ("LA", "RGBA") else ()
    tensor = as_stored(values) if image.mode in _WIDE else torch.from_numpy(values)
    return Raw(tensor, image.mode in ("RGB", "RGBA"), alpha)


def _sixteen_bit_png(image: Image.Image, content: bytes) -> Raw:
    """PIL reduces colours of 16 bits to their upper bytes, so the lower ones are decoded too."""
    if content[25] == _PNG_GREY_ALPHA:
        raise UserError(
            "it is grey of 16 bits with transparency, which is not supported; save it "
            "without transparency"
        )
    upper = np.array(image).astype(np.int32)  # (H, W, C)
    with Image.open(io.BytesIO(content), formats=("PNG",)) as again:
        again.tile = [tile._replace(args=f"{again.mode};16L") for tile in again.tile]
        lower = np.array(again)
    values = (upper << 8 | lower).transpose(2, 0, 1)  # (C, H, W)
    return Raw(as_stored(values), True, (3,) if len(values) == 4 else ())


def pil_kind(image: Image.Image, content: bytes = b"") -> Kind:
    """Channels and bits of a PIL image; ``content`` is its file, if there is one."""
    deep = image.format == "PNG" and content[24:25] == b"\x10"
    wide = deep or image.mode in _WIDE
    alpha = int(image.mode in ("LA", "RGBA"))
    grey = image.mode in ("1", "L", "LA", *_WIDE)
    return Kind(1 if grey else 3, alpha, not grey, wide)


def chosen_channels(raw: Raw, layout: Layout) -> Tensor:
    """The channels of ``layout``, (count, H, W).

    Raises:
        UserError: the image has other channels or bits.
    """
    values = raw.values
    if layout.channels is not None:
        if max(layout.channels) >= len(values):
            raise UserError(
                f"it has {len(values)} channels, and those with the indices "
                f"{', '.join(map(str, layout.channels))} are expected; give an image that has them"
            )
        values = values[list(layout.channels)]
    elif raw.alpha:
        values = values[[k for k in range(len(values)) if k not in raw.alpha]]
    if layout.rgb and len(values) == 1:
        values = values.expand(3, -1, -1).contiguous()
    elif layout.count == 1 and len(values) == 3 and (values == values[:1]).all():
        values = values[:1]  # grey that was saved as RGB
    if len(values) != layout.count:
        names = " (RGB)" if layout.rgb else ""
        raise UserError(
            f"it has {len(values)} channels, and {layout.count}{names} are expected as in the "
            "training; convert it, or choose with --data.channels when training"
        )
    if (values.dtype != torch.uint8) != layout.wide:
        raise UserError(f"it {_EIGHT_BITS}" if layout.wide else _too_wide(values))
    return values


def _too_wide(values: Tensor) -> str:
    low, high = float(values.min()), float(values.max())
    return (
        f"it holds values from {low:g} to {high:g}, and 8 bits a channel are expected as in the "
        "training; convert it as the training images were"
    )


def turned(values: Tensor, orientation: int) -> Tensor:
    """(..., H, W) as shown, from how it is stored with an EXIF ``orientation`` of 1 to 8.

    >>> turned(torch.tensor([[1, 2, 3]]), 6).tolist()
    [[1], [2], [3]]
    """
    if orientation in (5, 6, 7, 8):  # rows and columns change places
        values = values.transpose(-1, -2)
    # after that, whether columns and rows run backwards
    columns, rows = _BACKWARDS.get(orientation, (False, False))
    axes = [axis for axis, back in ((-1, columns), (-2, rows)) if back]
    return values.flip(axes) if axes else values


def to_ids(image: Image.Image, path: _Path) -> Tensor:
    """The class ids in a PIL image that comes from ``path``; see :func:`read_mask`."""
    refuse_ambiguous_ids(image, path)
    name = f"mask '{os.fspath(path)}'"
    if image.mode not in ("L", "P", "1") and not image.mode.startswith("I"):
        raise UserError(
            f"{name} is a colour image ({image.mode}); save one byte a pixel, the class id, instead"
        )
    ids = np.array(ImageOps.exif_transpose(image) if _turn(image) != 1 else image)  # (H, W)
    if ids.dtype not in (np.uint8, np.bool_) and (ids.min() < 0 or ids.max() > 255):
        raise UserError(f"{name} holds ids from {ids.min()} to {ids.max()}; use ids 0 to 255")
    return torch.from_numpy(ids.astype(np.uint8, copy=False))


def refuse_ambiguous_ids(image: Image.Image, path: _Path) -> None:
    """Raise a UserError for a mask whose stored values its file format changes."""
    name = f"mask '{os.fspath(path)}'"
    if image.format in ("JPEG", "MPO"):
        raise UserError(
            f"{name} is a JPEG, which blurs class ids; export it again as PNG (a copy of the JPEG "
            "stays blurred)"
        )
    tile = next(iter(getattr(image, "tile", [])), None)
    if tile is not None and tile[3] in ("L;2", "L;4"):  # PIL's raw mode, before it is stretched
        raise UserError(
            f"{name} has {tile[3][2]} bits of grey a pixel, whose class ids are ambiguous; save it "
            "with 8 bits"
        )


def _to_image(image: Image.Image, content: bytes, layout: Layout) -> Tensor:
    """Decode with the fastest safe decoder; PIL where that one refuses."""
    try:
        plain = layout == RGB
        if plain and pyspng and image.format == "PNG" and _is_plain_png(content, _PNG_RGB):
            return torch.from_numpy(pyspng.load(content)).permute(2, 0, 1)  # (3, H, W)
        plain = plain and image.format == "JPEG" and image.mode == "RGB" and _turn(image) == 1
        if simplejpeg and plain:
            return torch.from_numpy(simplejpeg.decode_jpeg(content)).permute(2, 0, 1)  # (3, H, W)
    except (RuntimeError, ValueError):
        pass
    values = chosen_channels(_raw(image, content), layout)
    return turned(values, _turn(image))


def _turn(image: Image.Image) -> int:
    """The EXIF orientation of a PIL image, 1 to 8."""
    orientation = image.getexif().get(_ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


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


def open_file(path: _Path, what: str, convert: Callable[[Image.Image], _T]) -> _T:
    """What ``convert`` makes of the image in file ``path``.

    Raises:
        UserError: the file is missing or unreadable; the message calls it ``what``.
    """
    return _decode(_content(path, what), path, what, convert)


def _decode(content: bytes, path: _Path, what: str, convert: Callable[[Image.Image], _T]) -> _T:
    def opened() -> _T:
        with Image.open(io.BytesIO(content), formats=KINDS) as image:
            return convert(image)

    return _guarded(opened, path, what)


def _guarded(read: Callable[[], _T], path: _Path, what: str = "image") -> _T:
    """The result of ``read``; its errors name ``path``."""
    try:
        return read()
    except UserError as error:
        if os.fspath(path) in str(error):
            raise
        raise UserError(f"{what} '{os.fspath(path)}': {error}") from error
    except UnidentifiedImageError as error:
        raise _unreadable(path, what, "not an image of a supported type") from error
    except Image.DecompressionBombError as error:
        raise UserError(
            f"cannot read {what} '{os.fspath(path)}' ({error}); if it is really so large, predict "
            "--raster yes labels it block by block, and prepare geo cuts it for training"
        ) from error
    except Exception as error:  # decoders raise many types for damaged files
        raise _unreadable(path, what, error) from error


def _unreadable(path: _Path, what: str, reason: object) -> UserError:
    return UserError(
        f"cannot read {what} '{os.fspath(path)}' ({reason}); replace or remove the file"
    )
