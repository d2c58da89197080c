"""How the masks of a dataset are read: from stored values or colours to class ids."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scenewise.classes import Classes
from scenewise.data.formats.stored_values import Inventory, read_stored
from scenewise.data.images import read_mask
from scenewise.errors import UserError

OFF = 1e-3  # share of a mask's pixels that may have colours of no class; they are ignored
Meaning = dict[int, str]  # stored value or colour code -> class


@dataclass(frozen=True)
class Reading:
    """How the masks of a dataset are read.

    Attributes:
        classes: the classes, in the order of their ids.
        meaning: class of each stored value, or of each colour code; None if masks hold class ids.
        mode: "ids" and "values" read grey values or indices, "grey" and "color" what is seen.
        source: where the names come from.
        off: share of the sampled pixels whose colour is of no class.
        plain: the sampled masks have one channel.
    """

    classes: Classes
    meaning: Mapping[int, str] | None = None
    mode: str = "ids"
    source: str = ""
    off: float = 0.0
    plain: bool = True
    _table: tuple[tuple[int, int], ...] = field(default=(), repr=False)

    def ids(self, path: Path) -> Tensor:
        """The class ids (H, W), uint8, of the mask in ``path``.

        Raises:
            UserError: it is unreadable, or a value is of no class; lists those with their pixels.
        """
        if self.mode == "ids" and self.plain:
            with suppress(UserError):
                return read_mask(path)  # the fast way
        stored = read_stored(path)
        if self.mode in ("ids", "values") and stored.color:
            raise UserError(
                f"mask '{path}' is in colours, but other masks hold values; export all alike"
            )
        values = stored.values if self.mode in ("ids", "values") else stored.as_colors()
        if self.mode == "grey":
            if (values % 0x010101).any():
                raise UserError(f"mask '{path}' is in colours, but others are grey; export alike")
            values = values // 0x010101
        if self.meaning is None:
            if values.max(initial=0) > 255:
                raise UserError(f"mask '{path}' holds ids up to {values.max()}; use ids 0 to 255")
            return torch.from_numpy(values.astype(np.uint8))
        return self._look_up(values, path)

    def _look_up(self, values: NDArray[np.generic], path: Path) -> Tensor:
        found = _lookup(self._table, 1 << 24 if self.mode == "color" else 1 << 16)[values]  # (H, W)
        unknown = found < 0
        if unknown.any():
            if self.mode != "color" or unknown.mean() > OFF:
                raise UserError(self._unknown(values[unknown], path))
            found = np.where(unknown, self.classes.ignore_index, found)
        return torch.from_numpy(found.astype(np.uint8))

    def _unknown(self, values: NDArray[np.generic], path: Path) -> str:
        numbers, pixels = np.unique(values, return_counts=True)
        most = np.argsort(-pixels, kind="stable")[:8]
        listed = ", ".join(f"{self._word(int(numbers[i]))} ({pixels[i]} pixels)" for i in most)
        more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
        kind = "colours" if self.mode == "color" else "values"
        return (
            f"mask '{path}' holds {kind} of no class: {listed}{more}; the classes are "
            f"{self.text()}; correct the mask, or give every one with --data.labels"
        )

    def _word(self, value: int) -> str:
        return f"#{value:06x}" if self.mode == "color" else str(value)

    def text(self) -> str:
        """The meaning of the values: ``0 = background, 255 = disc``; empty for class ids."""
        meaning = dict(self.meaning or {})
        words = [f"{self._word(value)} = {name}" for value, name in list(meaning.items())[:12]]
        return ", ".join(words) + (", ..." if len(meaning) > 12 else "")


@cache
def _lookup(table: tuple[tuple[int, int], ...], size: int) -> NDArray[np.int16]:
    """From stored values to class ids; -1 for those of no class. Not pickled for workers."""
    result = np.full(size, -1, np.int16)
    for value, k in table:
        result[value] = k
    return result


def reading_of(
    classes: Classes, meaning: Meaning, stored: Inventory, source: str, mode: str = "values"
) -> Reading:
    """A reading whose classes are named by ``meaning``; ``ignore`` becomes the ignored id."""
    ids = {name: k for k, name in enumerate(classes.names)}
    table = tuple((value, ids.get(name, classes.ignore_index)) for value, name in meaning.items())
    off = 0.0
    if mode == "color" and stored.color:
        total = sum(stored.counts.values())
        off = 1 - sum(stored.counts[value] for value in meaning) / max(1, total)
    if mode == "values" and stored.seen:
        mode = "grey"
    return Reading(classes, meaning, mode, source, off, stored.plain, table)


def as_stored(classes: Classes, stored: Inventory, source: str) -> Reading:
    mode = "grey" if stored.seen else "ids"
    return Reading(classes, None, mode, source, plain=stored.plain)
