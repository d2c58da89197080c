"""Recognising the layout of a folder, and opening it: ``open_dataset``."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from scenewise.data.datasets import Root, SegmentationDataset, Transform
from scenewise.data.formats import FORMATS
from scenewise.data.formats.listing import list_root
from scenewise.errors import UserError


class Recognised(NamedTuple):
    """The format of a folder, and the reason in one line."""

    format: str
    reason: str


def recognise(root: Root) -> Recognised:
    """The format of the data in ``root``, judged by names and a few small files.

    Raises:
        UserError: it is not a folder, no format fits, or several do.
    """
    source = os.fspath(root)
    if re.match(r"[a-z][a-z0-9]+://", source):
        return Recognised("stream", "an address, so shards")
    if not Path(source).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise UserError(
            f"'{source}' not found; check the path, or give --data.format hugging_face if it is a "
            "name on the hub"
        )
    listing = list_root(source)
    reasons = {
        name: reason
        for name, form in FORMATS.items()
        if form.recognise is not None and (reason := form.recognise(listing)) is not None
    }
    if len(reasons) > 1:
        both = "; ".join(f"--data.format {name} ({reason})" for name, reason in reasons.items())
        raise UserError(f"'{source}' can be read in several ways, choose one: {both}")
    name, reason = next(iter(reasons.items()), ("folder", "images with masks in folders"))
    return Recognised(name, reason)


def open_dataset(
    root: Root,
    split: str = "train",
    format: str = "auto",
    *,
    transform: Transform | None = None,
) -> SegmentationDataset:
    """One split of the data in ``root``, whose layout is recognised.

    ``dataset[i]`` is ``{"image", "mask", "name"}``; masks hold class ids in the order of
    ``dataset.classes``.

    Args:
        root: the folder.
        split: train, val or test.
        format: the name of a format; "auto" recognises it.
        transform: joint transform of image and mask.

    Raises:
        UserError: the layout is unknown or ambiguous, the split is missing, or files are.
    """
    name = recognise(root).format if format == "auto" else format
    if name not in FORMATS:
        raise UserError(f"unknown data format '{name}'; choose one of auto, {', '.join(FORMATS)}")
    return FORMATS[name].open(root, split, transform)
