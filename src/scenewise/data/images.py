"""Reading pictures and masks from files, and saying plainly what is wrong with them."""

import os
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from scenewise.errors import UserError

Path = str | os.PathLike[str]
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def read_image(path: Path) -> Tensor:
    """The picture in file ``path``: (3, H, W), uint8, RGB, turned as its EXIF orientation says.

    Grey and CMYK are converted, transparency is dropped, 16 bits are cut to the upper 8.

    Raises:
        UserError: no such file, not a picture, cut off, or too large to be real.
    """
    return _decode(path, "picture", lambda picture: to_rgb(ImageOps.exif_transpose(picture)))


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
    rgb = np.array(picture.convert("RGB"))
    return torch.from_numpy(rgb).permute(2, 0, 1).contiguous()


def read_mask(path: Path) -> Tensor:
    """The class ids in file ``path``: (H, W), uint8; an indexed picture gives its indices.

    An EXIF orientation is followed, as in pictures.

    Raises:
        UserError: as :func:`read_image`; also a picture of colours, a JPEG, whose ids are blurred,
            2 or 4 bits of grey, which decoders stretch to 8, or ids above 255.
    """

    def convert(picture: Image.Image) -> Tensor:
        with Image.open(path) as again:
            again.verify()  # the decoder does not check the last bytes of a PNG
        return to_ids(picture, path)

    return _decode(path, "mask", convert)


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
    ids = np.array(ImageOps.exif_transpose(picture))
    if ids.dtype not in (np.uint8, np.bool_) and (ids.min() < 0 or ids.max() > 255):
        raise UserError(
            f"mask '{os.fspath(path)}' holds ids from {ids.min()} to {ids.max()}; use ids 0 to 255"
        )
    return torch.from_numpy(ids.astype(np.uint8))


def _decode(path: Path, what: str, convert: Callable[[Image.Image], Tensor]) -> Tensor:
    try:
        with Image.open(path) as picture:
            return convert(picture)
    except FileNotFoundError as error:
        raise UserError(f"no such {what}: '{os.fspath(path)}'; check the path") from error
    except UserError as error:
        if os.fspath(path) in str(error):
            raise
        raise UserError(f"{what} '{os.fspath(path)}': {error}") from error
    except Exception as error:  # decoders of broken files raise errors of many kinds
        raise UserError(
            f"cannot read {what} '{os.fspath(path)}' ({error}); replace or remove the file"
        ) from error
