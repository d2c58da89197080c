"""Datasets of the Hugging Face ``datasets`` library: on the hub, or in a folder on disk."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image
from torch import Tensor

from scenewise.classes import Classes, distinct_colors
from scenewise.data.class_lists import read_classes
from scenewise.data.datasets import (
    Root,
    SegmentationDataset,
    Transform,
    check_pair,
    largest_id,
    numbered_classes,
)
from scenewise.data.formats.listing import Listing
from scenewise.data.formats.segments_ai import classes_of_instances, instance_numbers
from scenewise.data.images import image_of, pil_kind, to_ids
from scenewise.data.tiff import Kind
from scenewise.errors import UserError
from scenewise.files import parse_json

_SPLITS = {
    "train": ("train", "training"),
    "val": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
# Columns of Segments.ai's datasets: numbers of instances, and the category of each.
_BITMAP, _ANNOTATIONS = "label.segmentation_bitmap", "label.annotations"
_INSPECTED = 8  # rows that are read to find the layout of the images
_IMAGE_COLUMNS = ("image", "pixel_values", "img", "picture")
_MASK_COLUMNS = (
    "label",
    "mask",
    "annotation",
    "labels",
    "masks",
    "semantic_segmentation",
    "segmentation_mask",
    "segmentation",
    "label_map",
)


class HuggingFace(SegmentationDataset):
    """An image column and a mask column of a dataset of the ``datasets`` library.

    Masks are images of one byte a pixel, the class id; 255 is ignored. The classes are read from
    ``classes.json`` (see :func:`scenewise.data.datasets.read_classes`) or ``id2label.json`` next to
    the data, else they are numbered up to the largest id of the training masks, which reads all of
    them once. Splits: ``train``, ``val`` (also called validation there), or any other.

    Args:
        root: name on the hub (``owner/name``), or a folder: of ``Dataset.save_to_disk``, or any
            that ``datasets.load_dataset`` reads (parquet files, ``imagefolder``, ...).
        split: which images.
        transform: joint transform of image and mask.
        columns: names of the two columns; ``None`` finds them by their usual names.

    Raises:
        UserError: the library is not installed, or the dataset, split or column is not found.
    """

    def __init__(
        self,
        root: Root,
        split: str = "train",
        transform: Transform | None = None,
        columns: tuple[str, str] | None = None,
    ) -> None:
        source = os.fspath(root)
        self.rows, part = _load(source, split)
        self.columns = columns or _columns(self.rows.features, source)
        for column in self.columns:
            if column not in self.rows.features:
                raise UserError(
                    f"column '{column}' not found in '{source}'; choose from "
                    f"{', '.join(self.rows.features)}"
                )
        names = [f"{part}_{i:08d}" for i in range(len(self.rows))]
        classes = _classes(source) or _numbered(source, self.columns[1])
        super().__init__(names, classes, transform)

    def select(self, indices: Sequence[int]) -> Self:
        """The same dataset with these rows alone."""
        chosen = super().select(indices)
        chosen.rows = self.rows.select(indices)
        return chosen

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image and mask of row ``index``.

        Raises:
            UserError: a cell is unreadable or not an image, the sizes differ, or an id is unknown.
        """
        name = self.names[index]
        row = _row(self.rows, index, name)
        mask = _mask(row, self.columns[1], name)
        try:
            image = image_of(row[self.columns[0]], self.layout)
        except Exception as error:  # a broken cell raises errors of many types
            raise UserError(
                f"cannot read column '{self.columns[0]}' of row '{name}' ({error}); remove the row"
            ) from error
        check_pair(image, mask, self.classes, name, name)
        return image, mask

    def kinds(self, *, pages: bool = False) -> list[tuple[str, Kind]]:
        """Names and kinds of the images in a few rows, spread evenly."""
        found = []
        for index in range(0, len(self), -(-len(self) // _INSPECTED) or 1):
            with suppress(Exception):  # reading the row reports it
                row = _row(self.rows, index, self.names[index])
                found.append((self.names[index], pil_kind(row[self.columns[0]])))
        return found


def recognise(listing: Listing) -> str | None:
    """Why a folder is of the ``datasets`` library: its own files, or parquet files."""
    own = next((name for name in ("dataset_dict.json", "state.json") if listing.has(name)), None)
    tables = [path for path in listing.sample if path.endswith(".parquet")]
    file = own or next(iter(tables), None)
    return None if file is None else f"a dataset of the library 'datasets', from '{file}'"


def splits(listing: Listing) -> tuple[str, ...]:
    """Those of train, val and test that a dataset has; ``all`` if it is not divided."""
    loaded = _open(listing.root.as_posix())
    names = [*loaded] if isinstance(loaded, dict) else []
    found = tuple(split for split, called in _SPLITS.items() if _first(called, names))
    return found or ("all",)


def _open(source: str) -> Any:
    """The rows of a dataset, by the names of its splits if it has any."""
    datasets = _library()
    try:
        if (Path(source) / "dataset_dict.json").exists() or (Path(source) / "state.json").exists():
            return datasets.load_from_disk(source)
        return datasets.load_dataset(source)
    except Exception as error:  # the library raises many types, of the network too
        raise UserError(
            f"cannot load dataset '{source}' ({error}); give a name on the hub like owner/name, "
            "or a folder that datasets.load_dataset reads"
        ) from error


def _load(source: str, split: str) -> tuple[Any, str]:
    """The rows of one split, and the source's name of that split."""
    loaded = _open(source)
    if not isinstance(loaded, dict):
        return loaded, split
    if split == "all" and len(loaded) == 1:
        split = next(iter(loaded))
    names = _SPLITS.get(split, (split,))
    name = _first(names, [*loaded])
    if name is None:
        raise UserError(
            f"split {' or '.join(names)} not found in '{source}'; it has {', '.join(loaded)}"
        )
    return loaded[name], name


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(
            "this format needs the library 'datasets'; run: pip install 'scenewise[hf]'"
        ) from None
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return datasets


def _columns(features: dict[str, Any], source: str) -> tuple[str, str]:
    """The image and the mask column, by their usual names or as the only two of images."""
    columns = [name for name, kind in features.items() if type(kind).__name__ == "Image"]
    image = _first(_IMAGE_COLUMNS, columns)
    others = [name for name in columns if name != image]
    mask = _first(_MASK_COLUMNS, others)
    if image is not None and mask is None and len(others) == 1:
        mask = others[0]
    if image is None or mask is None:
        raise UserError(
            f"the image and the mask column of '{source}' are ambiguous (its image columns are "
            f"{', '.join(columns) or 'none'}); rename them to 'image' and 'label'"
        )
    return image, mask


def _first(candidates: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in candidates if name in names), None)


def _row(rows: Any, index: int, name: str) -> dict[str, Any]:
    try:
        row: dict[str, Any] = rows[index]
    except Exception as error:  # a broken cell raises errors of many types
        raise UserError(f"cannot read row '{name}' ({error}); remove the row") from error
    return row


def _mask(row: dict[str, Any], column: str, name: str) -> Tensor:
    """Ids (H, W), uint8, of a PIL image of one channel, or of Segments.ai's instances."""
    cell = row[column]
    if not isinstance(cell, Image.Image):
        raise UserError(
            f"column '{column}' of row '{name}' holds {type(cell).__name__} instead of an image; "
            "remove the row, or give the column of the masks"
        )
    if column == _BITMAP and _ANNOTATIONS in row:
        return _instances(cell, row[_ANNOTATIONS], name)
    return to_ids(cell, name)


def _instances(cell: Image.Image, annotations: Any, name: str) -> Tensor:
    """The category of each instance, 0 for pixels without one."""
    try:
        classes = {int(entry["id"]): int(entry["category_id"]) for entry in annotations or ()}
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"the annotations of row '{name}' are broken ({error})") from error
    if not all(0 < k < 255 for k in classes.values()):
        raise UserError(
            f"row '{name}' has categories below 1 or above 254, but 0 is a pixel without a label; "
            "use the release's files instead, see segments_ai"
        )
    return classes_of_instances(instance_numbers(np.asarray(cell)), {0: 0, **classes}, name)


def _classes(source: str) -> Classes | None:
    """The classes in ``classes.json`` or ``id2label.json`` next to the data."""
    for name, read in (("classes.json", read_classes), ("id2label.json", _from_id2label)):
        path = Path(source) / name
        if not Path(source).is_dir():
            from huggingface_hub import hf_hub_download

            try:
                path = Path(hf_hub_download(source, name, repo_type="dataset"))
            except (OSError, ValueError):  # the file does not exist, or no network
                continue
        if path.exists():
            return read(path)
    return None


def _from_id2label(path: Path) -> Classes:
    try:
        content = {int(k): str(v) for k, v in parse_json(path.read_bytes()).items()}
        content.pop(255, None)
        names = tuple(content[k] for k in range(len(content)))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"cannot use '{path}' ({type(error).__name__}: {error}); write it like "
            '{"0": "road", "1": "sky"}'
        ) from error
    return Classes(names, distinct_colors(len(names)))


@cache
def _numbered(source: str, column: str) -> Classes:
    rows, part = _load(source, "train")
    largest = -1
    for index in range(len(rows)):
        name = f"{part}_{index:08d}"
        largest = max(largest, largest_id(_mask(_row(rows, index, name), column, name)))
    return numbered_classes(largest, f"{source}/classes.json")
