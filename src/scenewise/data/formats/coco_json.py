"""COCO's JSON of instances: polygons and run lengths, as COCO, Roboflow, CVAT and others write it.

T.-Y. Lin and others, "Microsoft COCO: Common Objects in Context", ECCV 2014.
"""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scenewise.classes import Classes
from scenewise.data.formats.listing import Listing
from scenewise.data.formats.outlines import outlines
from scenewise.data.formats.regions import Polygon, Runs, Shape
from scenewise.data.formats.tool_dataset import (
    Drawn,
    DrawnDataset,
    ImageFiles,
    by_split,
    drawn_classes,
    read_json,
    written_labels,
)
from scenewise.errors import UserError

_FEW = 8  # JSON files in a folder; more are one for each image
_OTHER = ("captions", "panoptic", "person_keypoints", "stuff")  # COCO's files beside instances
_KEYS = ('"images"', '"annotations"', '"categories"')


class CocoJson(DrawnDataset):
    """One JSON file a split: ``train/_annotations.coco.json``, ``annotations/instances_val.json``.

    Small regions are drawn on top of large ones; crowds are drawn as their class. Pixels without
    annotation are background. A category without annotations that is the group of all others, as
    Roboflow writes it, is not a class.
    """

    title = "COCO"
    needs = "a JSON file with images, annotations and categories"
    by_area = True

    @staticmethod
    def recognise(listing: Listing) -> str | None:
        """Why the folder holds COCO's JSON, if it does."""
        files = _files(listing)
        return f"'{files[0]}' has images, annotations and categories" if files else None

    @classmethod
    def parts(cls, listing: Listing) -> dict[str, str]:
        parts = by_split(_files(listing), names=True)
        for split, files in parts.items():
            if len(files) > 1:
                raise UserError(
                    f"'{files[0]}' and '{files[1]}' in '{listing.root}' both list images of "
                    f"'{split}'; leave one of the two in the folder"
                )
        return {split: files[0] for split, files in parts.items()}

    def draw(self, listing: Listing, part: str) -> tuple[list[Drawn], Classes]:
        source = listing.root / part
        content = read_json(source, self.title)
        categories = _categories(content)
        classes, ids = drawn_classes([str(entry["name"]) for entry in categories])
        label_of = {entry["id"]: ids[str(entry["name"])] for entry in categories}
        regions: dict[Any, list[tuple[int, Shape]]] = {e["id"]: [] for e in content["images"]}
        for entry in content["annotations"]:
            regions[entry["image_id"]].append((label_of[entry["category_id"]], _shape(entry)))
        names = [str(entry["file_name"]) for entry in content["images"]]
        images = ImageFiles(listing).find(names, _folders(listing, part))
        items = [
            Drawn(image, source / str(entry["id"]), _size(entry), regions[entry["id"]])
            for image, entry in zip(images, content["images"], strict=True)
        ]
        return items, classes


def coco_json(
    predictions: Iterable[tuple[str, NDArray[np.uint8]]], classes: Classes
) -> dict[str, Any]:
    """Label maps as COCO's JSON: one polygon for each connected region; see :func:`outlines`.

    Args:
        predictions: file name and class ids (H, W) of each image.
        classes: the classes of the ids.
    """
    labels = written_labels(classes)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for name, ids in predictions:
        height, width = ids.shape
        image = {"id": len(images) + 1, "file_name": name, "height": height, "width": width}
        images.append(image)
        for k in labels:
            for ring, area in outlines(ids == k):
                xs, ys = ring[::2], ring[1::2]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image["id"],
                        "category_id": k + 1,
                        "segmentation": [ring],
                        "area": area,
                        "bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)],
                        "iscrowd": 0,
                    }
                )
    used = {entry["category_id"] - 1 for entry in annotations} | set(range(len(classes)))
    named = [
        {"id": k + 1, "name": name, "supercategory": ""} for k, name in labels.items() if k in used
    ]
    return {"images": images, "annotations": annotations, "categories": named}


def _categories(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The categories by id, without the one that Roboflow puts first as the group of the others."""
    categories = sorted(content["categories"], key=lambda entry: int(entry["id"]))
    first, *others = categories
    used = any(entry["category_id"] == first["id"] for entry in content["annotations"])
    group = others and all(entry.get("supercategory") == first["name"] for entry in others)
    return others if group and not used else categories


def _files(listing: Listing) -> list[str]:
    """The JSON files of instances; what COCO publishes beside them is left out."""
    found = []
    for folder, names in listing.folders.items():
        here = [name for name in names if name.lower().endswith(".json")]
        for name in here if len(here) <= _FEW else ():
            path = name if folder == "." else f"{folder}/{name}"
            if not name.startswith(_OTHER) and _is_coco(listing, path):
                found.append(path)
    return found


def _is_coco(listing: Listing, path: str) -> bool:
    if PurePosixPath(path).name.startswith("instances_"):
        return True  # it may be too large to look into
    text = listing.text(path)
    return all(key in text for key in _KEYS) and '"segments_info"' not in text


def _folders(listing: Listing, part: str) -> list[Path]:
    """Where the images of a JSON file may be, the most likely first."""
    here, root = (listing.root / part).parent, listing.root
    split = next(iter(by_split([part], names=True)))
    named = [
        root / folder
        for folder in listing.folders
        if split != "all" and split in by_split([f"{folder}.x"], names=True)
    ]
    return [here, here / "images", *named, root / "images", root]


def _shape(entry: dict[str, Any]) -> Shape:
    outline = entry.get("segmentation")
    if isinstance(outline, dict):
        height, width = outline["size"]
        return Runs(outline["counts"], (int(height), int(width)))
    if not outline:
        raise ValueError(f"annotation {entry['id']} has a box and no outline")
    flat = not isinstance(outline[0], list)
    return Polygon([outline] if flat else outline)


def _size(entry: dict[str, Any]) -> tuple[int, int] | None:
    height, width = int(entry.get("height") or 0), int(entry.get("width") or 0)
    return (height, width) if height and width else None
