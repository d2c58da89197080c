"""Reading one image and its mask, and recording what is wrong with them."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scenewise.data.datasets import PairedDataset, SegmentationDataset, turned_with
from scenewise.data.images import KINDS, orientation_of, read_image
from scenewise.errors import UserError


@dataclass(frozen=True)
class Record:
    """The result of reading one image and its mask."""

    index: int
    kind: str = ""  # of the problem, "" if there is none
    error: str = ""
    file: str = ""
    size: tuple[int, int] | None = None
    digest: bytes = b""
    turn: str = ""  # of an image with an EXIF orientation, see _turn
    ids: Tensor | None = None  # (256,) pixels of each id, of a readable mask


def examine(dataset: SegmentationDataset, index: int, compare: bool = True) -> Record:
    """Read image and mask ``index`` and record what is wrong with them.

    Args:
        dataset: the dataset.
        index: of the image.
        compare: also hash the image's pixels, to recognise it in another split. An image of one
            colour, such as a tile without data, is not hashed.
    """
    if isinstance(dataset, PairedDataset):
        return _examine_files(dataset, index, compare)
    try:
        image, mask = dataset.read(index)
    except UserError as error:
        return Record(index, "unreadable", str(error), dataset.names[index])
    return _record(dataset, index, image, mask, dataset.names[index], compare)


def _examine_files(dataset: PairedDataset, index: int, compare: bool) -> Record:
    path = dataset.images[index]
    try:
        image = read_image(path, dataset.layout)
    except UserError as error:
        return Record(index, "unreadable image", str(error), str(path))
    path = dataset.masks[index]
    try:
        stored = dataset.read_mask(path)
    except UserError as error:
        raw = _raw_ids(path)
        color = raw is None and _channels(path) > 1
        kind = "colour mask" if color else "unreadable mask" if raw is None else "wrong ids"
        return Record(index, kind, str(error), str(path), ids=raw)
    mask = turned_with(image, stored, dataset.images[index])
    record = _record(dataset, index, image, mask, str(path), compare)
    orientation = orientation_of(dataset.images[index])
    if orientation == 1:
        return record
    turn = "stored" if mask is not stored else _turn(image, orientation, path)
    return replace(record, turn=turn)


def _turn(image: Tensor, orientation: int, mask: Path) -> str:
    """Whether a mask of the size of its turned image surely fits it.

    ``"shown"`` if it does; ``"either"`` if the image has the same size as stored. A mask that fits
    the pixels as stored, and is turned with its image, is ``"stored"``.
    """
    sides_change = orientation >= 5 and image.shape[1] != image.shape[2]
    return "shown" if sides_change or _has_orientation(mask) else "either"


def _has_orientation(mask: Path) -> bool:
    try:
        return orientation_of(mask) != 1
    except UserError:  # labels that are no image, such as polygons
        return False


def _record(
    dataset: SegmentationDataset, index: int, image: Tensor, mask: Tensor, file: str, compare: bool
) -> Record:
    size = (int(image.shape[1]), int(image.shape[2]))
    ids = torch.bincount(mask.flatten(), minlength=256)
    digest = b""  # of a blank tile too, as these are alike everywhere
    if compare and not bool((image == image[:, :1, :1]).all()):
        pixels = hashlib.blake2b(image.contiguous().numpy().data, digest_size=16)
        pixels.update(str(size).encode())
        digest = pixels.digest()
    kind = error = ""
    outside = ids.clone()  # (256,)
    outside[: len(dataset.classes)] = 0
    outside[dataset.classes.ignore_index] = 0
    if size != tuple(mask.shape):
        kind = "size mismatch"
        error = f"image is {size[0]}x{size[1]}, mask {mask.shape[0]}x{mask.shape[1]}"
    elif outside.any():
        kind, error = "wrong ids", "ids outside the classes"
    return Record(index, kind, error, file, size, digest, "", ids)


def _raw_ids(path: Path) -> Tensor | None:
    """(256,) pixels of each stored id in an image of one channel, else ``None``."""
    try:
        with Image.open(path, formats=KINDS) as image:
            if image.mode not in ("L", "P", "1"):
                return None
            ids = np.asarray(image).astype(np.int64)
    except Exception:  # the reader's error is reported, this only adds to it
        return None
    return torch.from_numpy(np.bincount(ids.ravel(), minlength=256))


def _channels(path: Path) -> int:
    try:
        with Image.open(path, formats=KINDS) as image:
            return len(image.getbands())
    except Exception:  # the reader's error is reported, this only adds to it
        return 0
