"""Hints: the likely reason for ids or colours that do not fit the classes."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from scenewise.classes import Classes


def hint_for_ids(ids: Iterable[int], classes: Classes) -> str | None:
    """The likely reason why masks hold these ids, or ``None``.

    Args:
        ids: all ids that occur in the masks, as they are stored.
        classes: the classes that the masks are read with.

    >>> hint_for_ids({0, 7, 26, 33}, Classes.numbered(19))
    "these look like Cityscapes' labelIds (0 to 33), not trainIds; use the format cityscapes"
    """
    used, count, ignored = set(ids), len(classes), classes.ignore_index
    outside = used - set(range(count)) - {ignored}
    if not outside:
        return _two_values(used, ignored)
    published = _published(count, max(outside), outside)
    if published is not None:
        return published
    if outside == {255} and ignored not in used:
        return f"if 255 is void, set ignore_index to 255; it is {ignored} in the class list"
    if outside == {count}:
        return (
            f"{count} is one past the last class: if it is void, set ignore_index to {count} in "
            "the class list; if ids count from 1, put a class for 0 before the others"
        )
    if len(outside) > 40:
        return "these look like the grey levels of an image, not like class ids"
    return None


def hint_for_colors(pixels: NDArray[np.uint8], classes: Classes) -> str:
    """The likely meaning of a mask of three channels (H, W, 3).

    >>> hint_for_colors(np.full((2, 3, 3), 7, dtype=np.uint8), Classes.numbered(9))
    'colour mask: 3 equal channels; keep one of them'
    """
    if (pixels == pixels[:, :, :1]).all():
        return "colour mask: 3 equal channels; keep one of them"
    colors = {tuple(color) for color in np.unique(pixels.reshape(-1, 3), axis=0).tolist()}
    if len(colors) <= len(classes) + 1 and len(colors - set(classes.colors)) <= 1:  # 1 for void
        return (
            "colour mask: 3 channels, with the colours of the classes; write the class id of each "
            "colour instead, one byte a pixel"
        )
    return (
        "colour mask: 3 channels; masks need one byte a pixel, the class id, not the colours of "
        "the classes"
    )


def _published(count: int, largest: int, outside: set[int]) -> str | None:
    """Frequent mistakes with published datasets, recognised by the number of classes."""
    if count == 19 and 19 < largest <= 33:
        return (
            "these look like Cityscapes' labelIds (0 to 33), not trainIds; use the format "
            "cityscapes"
        )
    if count == 150 and outside == {150}:
        return (
            "zero label not reduced: ADE20K counts its 150 classes from 1, and 0 is ignored; use "
            "the format ade20k"
        )
    if count == 59 and outside == {59}:
        return (
            "59/60: these are the 60 ids of PASCAL-Context with background, not the 59 without; "
            "use the format pascal_context or pascal_context_59"
        )
    if count == 171 and outside == {171}:
        return (
            "zero label not reduced: COCO-Stuff counted from 1, with 0 for unlabelled; use the "
            "format coco_stuff"
        )
    if count == 171 and largest <= 182:
        return "171/182: these are COCO-Stuff's 182 labels, not the 171 classes; use coco_stuff"
    return None


def _two_values(used: set[int], ignored: int) -> str | None:
    if used == {0, 255} and ignored == 255:
        return (
            "only 0 and 255 occur, as in images made for viewing: 255 is ignored, so only class 0 "
            "is learnt; if 255 is an object, write its class id instead, or in a folder of images "
            "and masks give --data.labels 0=CLASS,255=CLASS"
        )
    return None
