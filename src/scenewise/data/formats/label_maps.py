"""Mapping the ids and colours of published label files to class ids."""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from scenewise.classes import Color
from scenewise.data.images import KINDS, read_image
from scenewise.errors import UserError

_UNKNOWN = 254  # no published format has that many classes
_Table = NDArray[np.uint8]


def voc_colors(count: int) -> tuple[Color, ...]:
    """The colours of the VOC development kit for ids 0 to ``count`` - 1.

    Bits 0, 1, 2 of the id become the top bits of red, green, blue, bits 3, 4, 5 the next lower
    ones, and so on.

    >>> voc_colors(4)
    ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    """

    def channel(k: int, first: int) -> int:
        return sum((k >> (3 * j + first) & 1) << (7 - j) for j in range(3))

    return tuple((channel(k, 0), channel(k, 1), channel(k, 2)) for k in range(count))


def id_table(
    class_of: Mapping[int, int], ignored: Iterable[int] = (255,), size: int = 256
) -> _Table:
    """A table of ``size`` from published ids to class ids; ``ignored`` ones become 255."""
    table = np.full(size, _UNKNOWN, dtype=np.uint8)
    table[list(ignored)] = 255
    table[list(class_of)] = list(class_of.values())
    return table


def translate(ids: NDArray[Any], table: _Table, path: Path, expected: str) -> Tensor:
    """Look up every id in ``table``: (H, W) of any integer type -> (H, W), uint8.

    Raises:
        UserError: ids that are not in the table; lists them with their pixel counts.
    """
    mask: NDArray[np.uint8]
    if ids.dtype == np.uint8:  # bytes.translate is several times as fast as indexing
        flat = bytearray(np.ascontiguousarray(ids)).translate(table[:256].tobytes())
        mask = np.frombuffer(flat, dtype=np.uint8).reshape(ids.shape)
    else:
        inside = (ids >= 0) & (ids < len(table))
        mask = np.where(inside, table[np.where(inside, ids, 0)], _UNKNOWN).astype(np.uint8)
    unknown = mask == _UNKNOWN
    if unknown.any():
        values, counts = np.unique(ids[unknown], return_counts=True)
        listed = [f"{v} ({c} pixels)" for v, c in zip(values, counts, strict=True)]
        more = ", ..." if len(listed) > 8 else ""
        raise UserError(
            f"label '{path}' holds ids that are not {expected}: {', '.join(listed[:8])}{more}; use "
            "the publisher's file, or the format that fits this one"
        )
    return torch.from_numpy(mask)


@cache
def color_table(colors: tuple[Color, ...], ignored: tuple[Color, ...] = ()) -> _Table:
    """A table from all 2^24 colours to class ids; ``ignored`` ones become 255.

    If two classes have the same colour, the first one is meant.
    """
    table = np.full(1 << 24, _UNKNOWN, dtype=np.uint8)
    for red, green, blue in ignored:
        table[red << 16 | green << 8 | blue] = 255
    for k, (red, green, blue) in reversed(list(enumerate(colors))):  # the first overwrites
        table[red << 16 | green << 8 | blue] = k
    return table


def read_colors(path: Path, table: _Table, expected: str) -> Tensor:
    """Class ids (H, W), uint8, of a label file in colours.

    Raises:
        UserError: the file is unreadable, or a colour is unknown.
    """
    rgb = read_image(path).numpy().astype(np.int32)
    codes = rgb[0] << 16 | rgb[1] << 8 | rgb[2]  # (H, W)
    mask = table[codes]
    unknown = mask == _UNKNOWN
    if unknown.any():
        values, counts = np.unique(codes[unknown], return_counts=True)
        listed = [
            f"({v >> 16}, {v >> 8 & 255}, {v & 255}) ({c} pixels)"
            for v, c in zip(values, counts, strict=True)
        ]
        more = ", ..." if len(listed) > 4 else ""
        raise UserError(
            f"label '{path}' holds colours that are not {expected}: {', '.join(listed[:4])}{more}; "
            "use the publisher's file, not a resized or JPEG-compressed one"
        )
    return torch.from_numpy(mask)


def is_color(path: Path) -> bool:
    """Whether a file is a readable image of three or four channels."""
    try:
        with Image.open(path, formats=KINDS) as image:
            return image.mode in ("RGB", "RGBA")
    except Exception:  # the next reader reports what is wrong with the file
        return False
