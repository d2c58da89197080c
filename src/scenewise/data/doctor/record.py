"""One picture and its mask, read and judged."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scenewise.data.datasets import PairedDataset, SegmentationDataset
from scenewise.data.images import KINDS, read_image
from scenewise.errors import UserError

ORIENTATION = 0x0112  # EXIF tag


@dataclass(frozen=True)
class Record:
    """What one picture and its mask turned out to be."""

    index: int
    kind: str = ""  # what is wrong, "" if nothing
    error: str = ""
    file: str = ""
    size: tuple[int, int] | None = None
    digest: bytes = b""
    turned: bool = False  # the picture has an EXIF orientation
    ids: Tensor | None = None  # (256,) pixels of each id, of a readable mask


def examine(dataset: SegmentationDataset, index: int, compare: bool = True) -> Record:
    """Read picture and mask ``index`` and say what is wrong with them.

    Args:
        compare: also hash the picture's pixels, to find it again in another split.
    """
    if isinstance(dataset, PairedDataset):
        return _examine_files(dataset, index, compare)
    try:
        image, mask = dataset.read(index)
    except UserError as error:
        return Record(index, "unreadable", str(error), dataset.names[index])
    return _judge(dataset, index, image, mask, dataset.names[index], compare)


def _examine_files(dataset: PairedDataset, index: int, compare: bool) -> Record:
    path = dataset.images[index]
    try:
        image = read_image(path)
    except UserError as error:
        return Record(index, "unreadable picture", str(error), str(path))
    path = dataset.masks[index]
    try:
        mask = dataset.read_mask(path)
    except UserError as error:
        raw = raw_ids(path)
        color = raw is None and _channels(path) > 1
        kind = "colour mask" if color else "unreadable mask" if raw is None else "wrong ids"
        return Record(index, kind, str(error), str(path), ids=raw)
    return _judge(dataset, index, image, mask, str(path), compare)


def _judge(
    dataset: SegmentationDataset, index: int, image: Tensor, mask: Tensor, file: str, compare: bool
) -> Record:
    size = (int(image.shape[1]), int(image.shape[2]))
    ids = torch.bincount(mask.flatten(), minlength=256)
    digest = b""
    if compare:
        pixels = hashlib.blake2b(image.contiguous().numpy().data, digest_size=16)
        pixels.update(str(size).encode())
        digest = pixels.digest()
    kind = error = ""
    outside = ids.clone()
    outside[: len(dataset.classes)] = 0
    outside[dataset.classes.ignore_index] = 0
    if size != tuple(mask.shape):
        kind = "size mismatch"
        error = f"picture is {size[0]}x{size[1]}, mask {mask.shape[0]}x{mask.shape[1]}"
    elif outside.any():
        kind, error = "wrong ids", "ids outside the classes"
    turned = isinstance(dataset, PairedDataset) and _turned(dataset.images[index])
    return Record(index, kind, error, file, size, digest, turned, ids)


def raw_ids(path: Path) -> Tensor | None:
    """(256,) pixels of each id as stored in a picture of one channel, else ``None``."""
    try:
        with Image.open(path, formats=KINDS) as picture:
            if picture.mode not in ("L", "P", "1"):
                return None
            ids = np.asarray(picture).astype(np.int64)
    except Exception:  # the error of the reader is told, this only adds to it
        return None
    return torch.from_numpy(np.bincount(ids.ravel(), minlength=256))


def _channels(path: Path) -> int:
    try:
        with Image.open(path, formats=KINDS) as picture:
            return len(picture.getbands())
    except Exception:  # the error of the reader is told, this only adds to it
        return 0


def _turned(path: Path) -> bool:
    with Image.open(path, formats=KINDS) as picture:
        return bool(picture.getexif().get(ORIENTATION, 1) != 1)
