"""What masks with odd ids probably are."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from scenewise.classes import Classes


def guess(ids: Iterable[int], classes: Classes) -> str | None:
    """The likely reason why masks hold these ids, or ``None``.

    Args:
        ids: all ids that occur in the masks, as they are stored.
        classes: what the masks are read with.

    >>> guess({0, 7, 26, 33}, Classes.numbered(19))
    "these look like Cityscapes' labelIds (0 to 33), not trainIds; use the format cityscapes"
    """
    found, count, ignored = set(ids), len(classes), classes.ignore_index
    outside = found - set(range(count)) - {ignored}
    if not outside:
        return _binary(found, ignored)
    known = _known(count, max(outside), outside)
    if known is not None:
        return known
    if outside == {255}:
        return f"255 looks like the ignored id, which is {ignored} here; set ignore_index to 255"
    if outside == {count} and count != ignored:
        return (
            f"255 is missing: {count}, one past the last class, looks like void; write {ignored} "
            f"there, or read it as a folder whose classes.json says ignore_index {count}"
        )
    if len(outside) > 40:
        return "these look like the grey levels of a picture, not like ids"
    return None


def guess_colors(pixels: NDArray[np.uint8], classes: Classes) -> str:
    """What a mask of three channels (H, W, 3) probably is.

    >>> guess_colors(np.full((2, 3, 3), 7, dtype=np.uint8), Classes.numbered(9))
    'colour mask: 3 channels, all the same; keep one of them'
    """
    if (pixels == pixels[:, :, :1]).all():
        return "colour mask: 3 channels, all the same; keep one of them"
    found = {tuple(color) for color in np.unique(pixels.reshape(-1, 3), axis=0).tolist()}
    if len(found) <= len(classes) + 1 and len(found - set(classes.colors)) <= 1:
        return (
            "colour mask: 3 channels, with the colours of the classes; write the class id of each "
            "colour instead, one byte a pixel"
        )
    return (
        "colour mask: 3 channels; masks need one byte a pixel, the class id, not the colours of "
        "the classes"
    )


def _known(count: int, largest: int, outside: set[int]) -> str | None:
    """Mistakes that are known from published data sets, by the number of classes."""
    if count == 19 and 19 < largest <= 33:
        return (
            "these look like Cityscapes' labelIds (0 to 33), not trainIds; use the format "
            "cityscapes"
        )
    if count == 150 and outside == {150}:
        return (
            "zero label not reduced: ADE20K counts its 150 classes from 1 and 0 is none of them; "
            "use the format ade20k"
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


def _binary(found: set[int], ignored: int) -> str | None:
    if found == {0, 255} and ignored == 255:
        return (
            "only 0 and 255 occur, as in pictures made for viewing: 255 is ignored, so nothing "
            "but class 0 is learnt; write 1 instead of 255"
        )
    return None
