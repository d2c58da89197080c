"""labelme: one JSON file for each image, and the folder that ``labelme2voc`` makes of them."""

import base64
import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scenewise.classes import Classes
from scenewise.data.formats.label_maps import id_table, voc_colors
from scenewise.data.formats.listing import Listing
from scenewise.data.formats.outlines import outlines
from scenewise.data.formats.regions import Bitmap, Ellipse, Polygon, Shape, rectangle
from scenewise.data.formats.tool_dataset import (
    IGNORE,
    Drawn,
    DrawnDataset,
    ImageFiles,
    MaskDataset,
    by_split,
    drawn_classes,
    read_json,
    reading,
    warn,
    written_labels,
)
from scenewise.data.images import SUFFIXES
from scenewise.errors import UserError

_VOC_MASKS = ("SegmentationClassPNG", "SegmentationClass")
_VERSION = "5.5.0"  # of labelme, whose reader compares it
_LIST = "labels.txt"


class Labelme(DrawnDataset):
    """``NAME.json`` for each image, as labelme saves it; later shapes are drawn on earlier ones.

    Polygons, rectangles, circles and masks are read; points and lines are refused, because they
    have no area. ``labels.txt`` gives the order of the classes, else they are sorted by name.
    Pixels without a shape are background. Images without a file are left out, which is said.
    """

    title = "labelme"
    needs = "a JSON file of labelme for each image"

    @staticmethod
    def recognise(listing: Listing) -> str | None:
        """Why the folder holds labelme's files, if it does."""
        files = _files(listing)
        return f"'{files[0]}' has labelme's shapes" if files else None

    @classmethod
    def parts(cls, listing: Listing) -> dict[str, list[str]]:
        return by_split(_files(listing))

    def draw(self, listing: Listing, part: list[str]) -> tuple[list[Drawn], Classes]:
        content = {path: _read(listing.root / path) for path in _files(listing)}
        used = {str(shape["label"]) for value in content.values() for shape in value["shapes"]}
        classes, ids = drawn_classes(_labels(listing, used))
        sources = [listing.root / path for path in part]
        images = _images(listing, sources, [str(content[path]["imagePath"]) for path in part])
        items = []
        for path, source, image in zip(part, sources, images, strict=True):
            value = content[path]
            with reading(source, self.title):
                shapes = [(ids[str(shape["label"])], _shape(shape)) for shape in value["shapes"]]
                items.append(Drawn(image, source, _size(value), shapes))
        _say_unlabelled(listing, items)
        return items, classes


class LabelmeVoc(MaskDataset):
    """``labelme2voc`` output: ``JPEGImages``, ``SegmentationClassPNG`` and ``class_names.txt``.

    The masks hold the ids of ``class_names.txt``, of which the first, ``_background_``, is every
    pixel without a shape; 255 is ignored.
    """

    title = "labelme2voc"
    needs = "class_names.txt beside JPEGImages and SegmentationClassPNG"

    @staticmethod
    def recognise(listing: Listing) -> str | None:
        """Why the folder is labelme2voc's, if it is."""
        if not LabelmeVoc.parts(listing):
            return None
        return "'class_names.txt' is beside 'JPEGImages' and masks, as labelme2voc writes it"

    @classmethod
    def parts(cls, listing: Listing) -> dict[str, str]:
        masks = next((folder for folder in _VOC_MASKS if listing.has(folder)), "")
        whole = listing.has("class_names.txt") and listing.has("JPEGImages") and masks
        return {"all": masks} if whole else {}

    def find(self, listing: Listing, part: str) -> tuple[list[Path], list[Path], Classes]:
        lines = listing.text("class_names.txt").splitlines()
        names = [line.strip() for line in lines if line.strip() and line.strip() != IGNORE]
        self.table = id_table({k: k for k in range(len(names))})
        images = [listing.root / "JPEGImages" / name for name in listing.folders["JPEGImages"]]
        masks = [listing.root / part / f"{image.stem}.png" for image in images]
        return images, masks, Classes(tuple(names), voc_colors(len(names)))


def labelme_json(image: str, ids: NDArray[np.uint8], classes: Classes) -> dict[str, Any]:
    """Class ids (H, W) of the file ``image`` as labelme's JSON: one polygon a connected region."""
    shapes: list[dict[str, Any]] = [
        {
            "label": label,
            "points": [ring[i : i + 2] for i in range(0, len(ring), 2)],
            "group_id": None,
            "shape_type": "polygon",
            "flags": {},
        }
        for k, label in written_labels(classes).items()
        for ring, _ in outlines(ids == k)
    ]
    return {
        "version": _VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": image,
        "imageData": None,
        "imageHeight": ids.shape[0],
        "imageWidth": ids.shape[1],
    }


def _files(listing: Listing) -> list[str]:
    """The JSON files, if they are labelme's: one of each folder is looked into."""
    found = []
    for folder, names in listing.folders.items():
        here = [name for name in names if name.lower().endswith(".json")]
        paths = [name if folder == "." else f"{folder}/{name}" for name in here]
        texts = [listing.text(path) for path in paths[:3]]
        if any('"shapes"' in text and '"imagePath"' in text for text in texts):
            found += paths
    return found


def _read(path: Path) -> Any:
    value = read_json(path, "labelme")
    if not isinstance(value, dict) or not isinstance(value.get("shapes"), list):
        raise UserError(f"'{path}' is not a file of labelme; move it out of the dataset")
    return value


def _labels(listing: Listing, used: set[str]) -> list[str]:
    """The labels in the order of ``labels.txt``, which must list all that are used, else sorted."""
    if not listing.has(_LIST):
        return sorted(used)
    listed = [line.strip() for line in listing.text(_LIST).splitlines() if line.strip()]
    if absent := sorted(used - {*listed}):
        raise UserError(
            f"label '{absent[0]}' is not in '{listing.root / _LIST}'; add it, or rename the label"
        )
    return listed


def _images(listing: Listing, sources: Sequence[Path], names: Sequence[str]) -> list[Path]:
    """The image that each file names, else the one of the file's own name beside it.

    If no file has its image beside it, the images are looked up by name in the whole dataset.
    """
    files = ImageFiles(listing)
    found = [
        files.at(source.parent, name) or files.beside(source)
        for source, name in zip(sources, names, strict=True)
    ]
    if not any(found):
        return files.find(names, [])
    return [
        image or source.parent / PurePosixPath(name.replace("\\", "/")).name
        for image, source, name in zip(found, sources, names, strict=True)
    ]


def _shape(shape: dict[str, Any]) -> Shape:
    points, kind = shape["points"], shape.get("shape_type") or "polygon"
    flat = [float(v) for point in points for v in point]
    if kind in ("polygon", "oriented_rectangle"):
        return Polygon([flat])
    if kind == "rectangle":
        (x0, x1), (y0, y1) = sorted(flat[::2]), sorted(flat[1::2])
        return rectangle(x0, y0, x1 - x0, y1 - y0)
    if kind == "circle":
        radius = math.dist(flat[:2], flat[2:])
        return Ellipse((flat[0], flat[1]), (radius, radius))
    if kind == "mask":
        return Bitmap(base64.b64decode(shape["mask"]), (int(flat[0]), int(flat[1])))
    raise ValueError(f"a shape of type {kind} has no area; draw a polygon, or delete the shape")


def _size(value: dict[str, Any]) -> tuple[int, int] | None:
    height, width = value.get("imageHeight"), value.get("imageWidth")
    return (int(height), int(width)) if height and width else None


def _say_unlabelled(listing: Listing, items: Sequence[Drawn]) -> None:
    """Say which images beside the files have none."""
    labelled, folders = {item.image for item in items}, {item.image.parent for item in items}
    lone = [
        listing.root / path
        for path in listing.paths
        if PurePosixPath(path).suffix.lower() in SUFFIXES
        and (listing.root / path).parent in folders
        and listing.root / path not in labelled
    ]
    if lone:
        warn(f"{len(lone)} images have no labels and are left out, the first is '{lone[0]}'")
