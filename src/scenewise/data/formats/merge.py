"""Renaming, merging and ignoring the classes of any dataset by their names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from scenewise.classes import Classes
from scenewise.data.datasets import PairedDataset, SegmentationDataset
from scenewise.data.formats.label_option import IGNORE
from scenewise.data.tiff import Kind
from scenewise.errors import UserError


def merged(dataset: SegmentationDataset, names: Mapping[str, str]) -> SegmentationDataset:
    """``dataset`` with its classes renamed by ``names``; classes of one name become one.

    Classes that are not named stay; ``ignore`` as a name ignores a class.

    Raises:
        UserError: a name is not of a class, or no class is left.
    """
    classes, table = merge_classes(dataset.classes, names)
    if isinstance(dataset, PairedDataset):
        return _MergedPairs(dataset, classes, table)
    return _Merged(dataset, classes, table)


def merge_classes(classes: Classes, names: Mapping[str, str]) -> tuple[Classes, Tensor]:
    """The new classes, and a table (256,) from old ids to new ones.

    Raises:
        UserError: as :func:`merged`.

    >>> new, table = merge_classes(Classes.numbered(3), {"class_1": "class_0", "class_2": "ignore"})
    >>> new.names, table[[0, 1, 2, 255]].tolist()
    (('class_0',), [0, 0, 255, 255])
    """
    unknown = [name for name in names if name not in classes.names]
    if unknown:
        raise UserError(
            f"labels name '{unknown[0]}', which is not a class; the classes are "
            f"{', '.join(classes.names[:20])}"
        )
    targets = [names.get(name, name) for name in classes.names]
    kept = tuple(dict.fromkeys(name for name in targets if name != IGNORE))
    if not kept:
        raise UserError("labels ignore every class; keep one")
    table = torch.full((256,), 255, dtype=torch.uint8)
    for k, name in enumerate(targets):
        if name != IGNORE and k != classes.ignore_index:
            table[k] = kept.index(name)
    colors = tuple(classes.colors[targets.index(name)] for name in kept)
    return Classes(kept, colors), table


class _MergedPairs(PairedDataset):
    """Pairs whose mask ids pass through a table."""

    def __init__(self, inner: PairedDataset, classes: Classes, table: Tensor) -> None:
        super().__init__(inner.images, inner.masks, classes, inner.transform, inner.names)
        self.inner, self.table = inner, table
        self.classes_from, self.notes = inner.classes_from, inner.notes

    def read_mask(self, path: Path) -> Tensor:
        """The class ids (H, W), uint8, in the file ``path``."""
        return self.table[self.inner.read_mask(path).long()]


class _Merged(SegmentationDataset):
    """Any dataset whose mask ids pass through a table."""

    def __init__(self, inner: SegmentationDataset, classes: Classes, table: Tensor) -> None:
        super().__init__(inner.names, classes, inner.transform)
        self.inner, self.table = inner, table
        self.classes_from, self.notes = inner.classes_from, inner.notes

    def select(self, indices: Sequence[int]) -> Self:
        """The same dataset with these images alone."""
        chosen = super().select(indices)
        chosen.inner = self.inner.select(indices)
        return chosen

    def kinds(self, *, pages: bool = False) -> list[tuple[str, Kind]]:
        """Names and kinds of some images."""
        return self.inner.kinds(pages=pages)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (C, H, W) and mask (H, W)."""
        self.inner.layout = self.layout
        image, mask = self.inner.read(index)
        return image, self.table[mask.long()]
