"""Data sets of the Hugging Face ``datasets`` library: on the hub, or in a folder on disk."""

import logging
import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from scenewise.classes import Classes, distinct_colors
from scenewise.data.datasets import SegmentationDataset, Transform, check_ids, read_classes
from scenewise.data.images import to_ids, to_rgb
from scenewise.errors import UserError
from scenewise.files import parse_json

_SPLITS = {"train": ("train", "training"), "val": ("validation", "val", "valid", "dev")}
_PICTURES = ("image", "pixel_values", "img", "picture")
_MASKS = (
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
    """A picture column and a mask column of a ``datasets`` data set.

    Masks are pictures of one byte a pixel, the class id; 255 is ignored. The classes stand in
    ``classes.json`` (see :func:`scenewise.data.datasets.read_classes`) or ``id2label.json``
    beside the data, else they are numbered up to the largest id of the training masks, which
    reads all of them once.

    Args:
        root: name on the hub (``owner/name``), or a folder: of ``Dataset.save_to_disk``, or any
            that ``datasets.load_dataset`` reads (parquet files, ``imagefolder``, ...).
        split: ``train``, ``val`` (also called validation there) or another split's name.
        transform: joint transform of picture and mask.
        columns: names of the two columns; ``None`` finds them by their usual names.

    Raises:
        UserError: the library is not installed, or there is no such data set, split or column.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        transform: Transform | None = None,
        columns: tuple[str, str] | None = None,
    ) -> None:
        source = os.fspath(root)
        self.rows, part = _load(source, split)
        self.picture, self.mask = columns or _columns(self.rows.features, source)
        for column in (self.picture, self.mask):
            if column not in self.rows.features:
                raise UserError(
                    f"'{source}' has no column '{column}'; it has {', '.join(self.rows.features)}"
                )
        names = [f"{part}_{i:08d}" for i in range(len(self.rows))]
        classes = _classes(source) or _numbered(source, self.mask)
        super().__init__(names, classes, transform)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image and mask of row ``index``.

        Raises:
            UserError: a cell is unreadable or no such picture, the sizes differ, or an id is no
                class.
        """
        name = Path(self.names[index])
        row = _row(self.rows, index, name)
        picture, cell = row[self.picture], row[self.mask]
        mask = _mask(cell, name, self.mask)
        try:
            image = to_rgb(picture)
        except Exception as error:  # a broken cell raises errors of many kinds
            raise UserError(
                f"cannot read column '{self.picture}' of row '{name}' ({error}); remove the row"
            ) from error
        if image.shape[1:] != mask.shape:
            raise UserError(
                f"the mask of row '{name}' is {mask.shape[0]} rows x {mask.shape[1]} columns but "
                f"its picture {image.shape[1]} x {image.shape[2]}; give both the same size"
            )
        check_ids(mask, self.classes, name)
        return image, mask


def _load(source: str, split: str) -> tuple[Any, str]:
    """The rows of one split, and what the source calls that split."""
    datasets = _library()
    wanted = _SPLITS.get(split, (split,))
    try:
        if (Path(source) / "dataset_dict.json").exists() or (Path(source) / "state.json").exists():
            loaded = datasets.load_from_disk(source)
        else:
            loaded = datasets.load_dataset(source)
    except Exception as error:  # the library's errors are of many kinds, also of the network
        raise UserError(
            f"cannot load data set '{source}' ({error}); give a name on the hub like owner/name, "
            "or a folder that datasets.load_dataset reads"
        ) from error
    if not isinstance(loaded, dict):
        return loaded, split
    found = next((name for name in wanted if name in loaded), None)
    if found is None:
        raise UserError(
            f"'{source}' has no split {' or '.join(wanted)}; it has {', '.join(loaded)}"
        )
    return loaded[found], found


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
    """The picture and the mask column, by their usual names or as the only two pictures."""
    pictures = [name for name, kind in features.items() if type(kind).__name__ == "Image"]
    picture = _first(_PICTURES, pictures)
    mask = _first(_MASKS, [name for name in pictures if name != picture])
    if picture is not None and mask is None and len(pictures) == 2:
        mask = next(name for name in pictures if name != picture)
    if picture is None or mask is None:
        raise UserError(
            f"cannot tell the picture and the mask column of '{source}', whose picture columns are "
            f"{', '.join(pictures) or 'none'}; rename them to 'image' and 'label'"
        )
    return picture, mask


def _first(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in names), None)


def _row(rows: Any, index: int, name: Path) -> dict[str, Any]:
    try:
        row: dict[str, Any] = rows[index]
    except Exception as error:  # a broken cell raises errors of many kinds
        raise UserError(f"cannot read row '{name}' ({error}); remove the row") from error
    return row


def _mask(cell: Any, name: Path, column: str) -> Tensor:
    """Ids (H, W), uint8, of a PIL picture of one channel."""
    if not isinstance(cell, Image.Image):
        raise UserError(
            f"column '{column}' of row '{name}' holds no picture but {type(cell).__name__}; "
            "remove the row, or name the column of the masks"
        )
    return to_ids(cell, name)


def _classes(source: str) -> Classes | None:
    """The classes that ``classes.json`` or ``id2label.json`` beside the data name."""
    if Path(source).is_dir():
        if (Path(source) / "classes.json").exists():
            return read_classes(Path(source) / "classes.json")
        path = Path(source) / "id2label.json"
        return _from_id2label(path) if path.exists() else None
    from huggingface_hub import hf_hub_download

    for name, read in (("classes.json", read_classes), ("id2label.json", _from_id2label)):
        try:
            path = Path(hf_hub_download(source, name, repo_type="dataset"))
        except (OSError, ValueError):  # no such file, or no network: the next way is tried
            continue
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
        name = Path(f"{part}_{index:08d}")
        ids = _mask(_row(rows, index, name)[column], name, column)
        used = ids[ids != 255]
        largest = max(largest, int(used.max()) if used.numel() else -1)
    if largest < 1:
        raise UserError(
            f"the masks of '{source}' use {largest + 1} class ids besides 255, which is ignored; "
            "give each class its own id from 0 up, or put a classes.json beside the data"
        )
    logging.getLogger(__name__).warning(
        "'%s' names no classes: its masks use ids up to %d, so they are called class_0 to class_%d",
        source,
        largest,
        largest,
    )
    return Classes.numbered(largest + 1)
