"""Segments.ai: a release's JSON with the images and label bitmaps that its Python SDK downloads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from scenewise.classes import Classes
from scenewise.data.formats.listing import Listing
from scenewise.data.formats.tool_dataset import (
    ImageFiles,
    ToolDataset,
    by_split,
    drawn_classes,
    read_json,
    reading,
    warn,
)
from scenewise.errors import UserError

_FEW = 8  # JSON files in the root that are looked into
_KEYS = ('"task_attributes"', '"samples"')


class SegmentsAI(ToolDataset):
    """A release: its JSON, and ``NAME.jpg`` with ``NAME_label_LABELSET.png`` in one folder.

    The bitmaps hold the numbers of instances (red + 256 green + 65536 blue), to which the JSON
    gives categories. The SDK's ``_semantic.png`` are not read: which number a category has in them
    depends on the SDK's version. Pixels without an instance are background, class 0. Samples
    without a label are left out, which is said.
    """

    title = "Segments.ai"
    needs = "the JSON of a release and bitmaps called NAME_label_LABELSET.png"

    @staticmethod
    def recognise(listing: Listing) -> str | None:
        """Why the folder holds a release of Segments.ai, if it does."""
        release = _release(listing)
        return f"'{release}' is a release of Segments.ai" if release else None

    @classmethod
    def parts(cls, listing: Listing) -> dict[str, list[str]]:
        return by_split(_bitmaps(listing)) if _release(listing) else {}

    def find(self, listing: Listing, part: list[str]) -> tuple[list[Path], list[Path], Classes]:
        source = listing.root / _release(listing)
        release = read_json(source, self.title)
        with reading(source, self.title):
            categories = release["dataset"]["task_attributes"]["categories"]
            categories = sorted(categories, key=lambda entry: int(entry["id"]))
            classes, ids = drawn_classes([str(entry["name"]) for entry in categories])
            class_of = {int(entry["id"]): ids[str(entry["name"])] for entry in categories}
            instances = _instances(release["samples"], class_of)
        files = ImageFiles(listing)
        images, masks, lone = [], [], []
        self._classes_of: dict[Path, dict[int, int]] = {}
        for path in (listing.root / bitmap for bitmap in part):
            stem, _, labelset = path.stem.rpartition("_label_")
            if (stem, labelset) not in instances:
                lone.append(path)
                continue
            images.append(files.beside(path.with_name(f"{stem}.x")) or path.with_name(stem))
            masks.append(path)
            self._classes_of[path] = instances[stem, labelset]
        if lone:
            warn(f"{len(lone)} bitmaps have no labels in '{source}', left out, first '{lone[0]}'")
        return images, masks, classes

    def read_mask(self, path: Path) -> Tensor:
        """The classes of the instances in a bitmap."""
        try:
            with Image.open(path, formats=["PNG"]) as image:
                numbers = instance_numbers(np.asarray(image))
        except Exception as error:  # decoders raise many types for damaged files
            raise UserError(f"cannot read mask '{path}' ({error}); download it again") from error
        return classes_of_instances(numbers, {0: 0, **self._classes_of[path]}, str(path))


def instance_numbers(values: NDArray[Any]) -> NDArray[np.int64]:
    """The instances' numbers (H, W) in an image of three bytes a pixel, or of one number.

    >>> instance_numbers(np.array([[[44, 1, 0, 255]]], np.uint8))
    array([[300]])
    """
    wide = values.astype(np.int64)
    return wide if wide.ndim == 2 else wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]


def classes_of_instances(
    numbers: NDArray[np.int64], class_of: Mapping[int, int], name: str
) -> Tensor:
    """The class id of each pixel (H, W), uint8.

    Raises:
        UserError: an instance has no class; the message names ``name``.
    """
    present, inverse = np.unique(numbers, return_inverse=True)
    if unknown := [int(number) for number in present if int(number) not in class_of]:
        raise UserError(
            f"'{name}' holds instance {unknown[0]}, which the release does not list; download "
            "the release again"
        )
    table = np.array([class_of[int(number)] for number in present], np.uint8)
    return torch.from_numpy(table[inverse].reshape(numbers.shape))


def _release(listing: Listing) -> str:
    """The JSON of a release in the root; empty if there is none."""
    files = [name for name in listing.folders.get(".", ()) if name.endswith(".json")][:_FEW]
    texts = {name: listing.text(name) for name in files}
    return next((name for name in files if all(key in texts[name] for key in _KEYS)), "")


def _bitmaps(listing: Listing) -> list[str]:
    ends = ("_semantic.png", "_colored.png", "_instance.png")
    found = [path for path in listing.match("*_label_*.png") if not path.endswith(ends)]
    if not found and (others := listing.match("*_semantic.png")):
        raise UserError(
            f"'{listing.root / others[0]}' numbers the categories as its version of Segments.ai's "
            "SDK did; add the bitmaps NAME_label_LABELSET.png that the SDK downloads"
        )
    return found


def _instances(
    samples: list[dict[str, Any]], class_of: Mapping[int, int]
) -> dict[tuple[str, str], dict[int, int]]:
    """The class of each instance, by the sample's name without suffix and the label set."""
    found = {}
    for sample in samples:
        stem = Path(str(sample["name"]).replace("\\", "/")).stem
        for labelset, label in (sample.get("labels") or {}).items():
            annotations = ((label or {}).get("attributes") or {}).get("annotations")
            if annotations is not None:
                pairs = {int(a["id"]): class_of[int(a["category_id"])] for a in annotations}
                if (stem, labelset) in found:
                    raise ValueError(f"two samples are called '{stem}'")
                found[stem, labelset] = pairs
    return found
