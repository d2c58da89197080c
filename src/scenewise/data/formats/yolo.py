"""Ultralytics' layouts: ``data.yaml`` with polygon labels (YOLO) or with masks (semantic)."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from scenewise.classes import Classes, distinct_colors
from scenewise.data.formats.label_maps import id_table
from scenewise.data.formats.listing import Listing
from scenewise.data.formats.outlines import outlines
from scenewise.data.formats.regions import Polygon, Region, Size
from scenewise.data.formats.tool_dataset import (
    Drawn,
    DrawnDataset,
    ImageFiles,
    MaskDataset,
    drawn_classes,
    warn,
    written_labels,
)
from scenewise.data.images import SUFFIXES
from scenewise.errors import UserError
from scenewise.files import write_text

_SPLITS = ("train", "val", "test")
_MASK_SUFFIXES = (".png", ".PNG", ".bmp", ".tif")
_OUTSIDE = 1.01  # of a coordinate in shares of the image; a little more than 1 is rounding
_Config = dict[str, Any]


class Yolo(DrawnDataset):
    """Polygons of YOLO: ``images/SPLIT/NAME.jpg``, ``labels/SPLIT/NAME.txt``, and ``data.yaml``.

    Each line is a class and the corners of a polygon as shares of width and height. Small regions
    are drawn on top of large ones, as Ultralytics does. Pixels outside are background, class 0, so
    the classes count from 1. An image without a label file is all background, which is said.
    """

    title = "YOLO"
    needs = "data.yaml with the names of the classes"
    by_area = True

    @staticmethod
    def recognise(listing: Listing) -> str | None:
        """Why the folder holds polygons of YOLO, if it does."""
        path, config = _config(listing)
        if not path or "masks_dir" in config:
            return None
        parts, paths = _image_lists(listing).values(), {*listing.paths}
        if not any(_label_file(paths, image) for images in parts for image in images):
            return None
        return f"'{path}' names the classes, and labels are text files"

    @classmethod
    def parts(cls, listing: Listing) -> dict[str, list[str]]:
        return _image_lists(listing)

    def draw(self, listing: Listing, part: list[str]) -> tuple[list[Drawn], Classes]:
        self._names = _names(_config(listing)[1])
        classes, self._ids = drawn_classes(list(self._names.values()))
        paths = {*listing.paths}
        sources = [_label_file(paths, image) for image in part]
        lone = [image for image, source in zip(part, sources, strict=True) if source is None]
        if len(lone) == len(part):
            raise UserError(f"no image in '{listing.root}' has a label file; add 'labels'")
        if lone:
            warn(
                f"{len(lone)} of {len(part)} images have no label file and are read as background, "
                f"the first is '{listing.root / lone[0]}'"
            )
        items = [
            Drawn(listing.root / image, listing.root / (source or image), None)
            for image, source in zip(part, sources, strict=True)
        ]
        return items, classes

    def regions(self, item: Drawn, size: Size) -> Sequence[Region]:
        """The polygons in a label file; none for an image without one."""
        if item.source == item.image:
            return []
        lines = item.source.read_text(encoding="utf-8").splitlines()
        rows = [words for line in lines if (words := line.split())]
        return [self._region(words, size) for words in rows]

    def _region(self, words: list[str], size: Size) -> Region:
        label, values = int(words[0]), [float(word) for word in words[1:]]
        if len(values) == 4:
            raise ValueError("a line is a box, not a polygon")
        if any(not -_OUTSIDE + 1 <= value <= _OUTSIDE for value in values):
            raise ValueError("coordinates must be shares of the image, from 0 to 1")
        if label not in self._names:
            raise ValueError(f"class {label} is not in data.yaml")
        sides = (size[1], size[0])  # x is a share of the width, y of the height
        ring = [value * sides[k % 2] for k, value in enumerate(values)]
        return self._ids[self._names[label]], Polygon([ring])


class Ultralytics(MaskDataset):
    """Masks of Ultralytics: ``images/SPLIT/NAME.jpg``, ``masks/SPLIT/NAME.png``, ``data.yaml``.

    ``masks_dir`` in ``data.yaml`` names the folder. Pixels hold the class ids of ``names``, and 255
    for ignored ones.
    """

    title = "Ultralytics"
    needs = "data.yaml with masks_dir and the names of the classes"

    @staticmethod
    def recognise(listing: Listing) -> str | None:
        """Why the folder holds Ultralytics' masks, if it does."""
        path, config = _config(listing)
        return f"'{path}' names the classes and masks_dir" if "masks_dir" in config else None

    @classmethod
    def parts(cls, listing: Listing) -> dict[str, list[str]]:
        return _image_lists(listing) if "masks_dir" in _config(listing)[1] else {}

    def find(self, listing: Listing, part: list[str]) -> tuple[list[Path], list[Path], Classes]:
        config = _config(listing)[1]
        names = _names(config)
        self.table = id_table({value: k for k, value in enumerate(names)})
        paths = {*listing.paths}
        masks = [_mask_file(paths, image, str(config["masks_dir"])) for image in part]
        classes = Classes(tuple(names.values()), distinct_colors(len(names)))
        return [listing.root / image for image in part], [listing.root / m for m in masks], classes


def yolo_lines(ids: NDArray[np.uint8], classes: Classes) -> str:
    """Class ids (H, W) as lines of YOLO; see :func:`outlines` for the polygons."""
    sides = (ids.shape[1], ids.shape[0])
    lines = []
    for number, k in enumerate(written_labels(classes)):
        for ring, _ in outlines(ids == k):
            shares = " ".join(f"{v / sides[i % 2]:.8g}" for i, v in enumerate(ring))
            lines.append(f"{number} {shares}\n")
    return "".join(lines)


def write_yolo_config(path: Path, classes: Classes, split: str = "train") -> None:
    """Write ``data.yaml`` for images in ``images/SPLIT``; training and validation are the same."""
    names = dict(enumerate(written_labels(classes).values()))
    folder = f"images/{split}"
    config = {"path": ".", "train": folder, "val": folder, "names": names}
    write_text(path, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def _config(listing: Listing) -> tuple[str, _Config]:
    """The file that names the classes and its content; two empty values if there is none."""
    for path in (p for p in listing.folders.get(".", ()) if p.lower().endswith((".yaml", ".yml"))):
        try:
            content = yaml.safe_load(listing.text(path))
        except (yaml.YAMLError, ValueError, RecursionError):
            continue
        if isinstance(content, dict) and "names" in content:
            return path, content
    return "", {}


def _names(config: _Config) -> dict[int, str]:
    """The names of the classes by id."""
    names = config["names"]
    pairs = [*names.items()] if isinstance(names, Mapping) else [*enumerate(names)]
    if not all(isinstance(name, str | int) for _, name in pairs):  # nested ones may be huge
        raise ValueError("the names of the classes must be text")
    return {int(k): str(name) for k, name in sorted(pairs)}


def _image_lists(listing: Listing) -> dict[str, list[str]]:
    """The images of each split that ``data.yaml`` names, as paths below the root."""
    _, config = _config(listing)
    parts: dict[str, list[str]] = {}
    images = [path for path in listing.paths if path.lower().endswith(SUFFIXES)]
    for split in _SPLITS if config else ():
        entries = config.get(split) or []
        for entry in [entries] if isinstance(entries, str) else entries:
            if found := _entry(listing, str(entry), str(config.get("path", "")), images):
                parts[split] = [*parts.get(split, []), *found]
    if len(parts) > 1 and parts.get("val") == parts.get("train"):
        del parts["val"]  # as written where there is no validation
    return parts


def _entry(listing: Listing, entry: str, base: str, images: list[str]) -> list[str]:
    """The images of a folder or list that ``data.yaml`` names; no path leaves the root."""
    inside = _below(entry)
    if entry.endswith(".txt"):
        names = listing.text(inside).split()
        paths = ImageFiles(listing).find(names, [listing.root, (listing.root / inside).parent])
        return [path.relative_to(listing.root).as_posix() for path in paths]
    for folder in (inside, _below(f"{base}/{entry}")):
        found = [path for path in images if path.startswith(f"{folder}/")]
        if found:
            return found
    return []


def _below(path: str) -> str:
    """A path without drive, leading slash, and steps upwards."""
    parts = re.sub(r"^[A-Za-z]:", "", path.replace("\\", "/")).split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))


def _swapped(image: str, folder: str) -> PurePosixPath:
    """The path of an image with its last folder ``images`` replaced."""
    path = PurePosixPath(image)
    parts = list(path.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = folder
    return PurePosixPath(*parts)


def _label_file(paths: set[str], image: str) -> str | None:
    path = _swapped(image, "labels").with_suffix(".txt").as_posix()
    return path if path in paths else None


def _mask_file(paths: set[str], image: str, folder: str) -> str:
    path = _swapped(image, folder)
    candidates = [path.with_suffix(suffix).as_posix() for suffix in _MASK_SUFFIXES]
    return next((candidate for candidate in candidates if candidate in paths), candidates[0])
