"""CVAT: "CVAT for images 1.1" (XML) and "Segmentation mask 1.1"."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree  # only builds a document; untrusted ones are parsed by defusedxml

import numpy as np
from numpy.typing import NDArray

from scenewise.classes import Classes, Color
from scenewise.data.formats.label_maps import color_table, is_color, read_colors
from scenewise.data.formats.listing import Listing, split_of
from scenewise.data.formats.regions import Ellipse, Polygon, Runs, Shape, rectangle
from scenewise.data.formats.tool_dataset import (
    Drawn,
    DrawnDataset,
    ImageFiles,
    ToolDataset,
    by_split,
    drawn_classes,
    hex_color,
    reading,
    written_labels,
)
from scenewise.errors import UserError, import_extra

_XML = "annotations.xml"
_LISTS = "ImageSets/Segmentation"
_NO_AREA = ("polyline", "points", "cuboid", "skeleton")
_Element = Any


class Cvat(DrawnDataset):
    """``annotations.xml`` of "CVAT for images 1.1" with the images.

    Polygons, boxes, ellipses and masks are drawn in the order of their ``z_order``; a shape without
    an area is refused, tags are skipped. Pixels without a shape are background. The splits are
    CVAT's subsets.
    """

    title = "CVAT"
    needs = "annotations.xml of 'CVAT for images 1.1'"

    @staticmethod
    def recognise(listing: Listing) -> str | None:
        """Why the folder holds CVAT's XML, if it does."""
        whole = "<annotations" in listing.text(_XML)[:1000]
        return f"'{_XML}' has annotations of CVAT" if whole else None

    @classmethod
    def parts(cls, listing: Listing) -> dict[str, list[_Element]]:
        if not listing.has(_XML):
            return {}
        parts: dict[str, list[_Element]] = {}
        for image in _parse(listing.root / _XML).iterfind("image"):
            parts.setdefault(split_of(image.get("subset", "")) or "all", []).append(image)
        if len(parts) > 1 and "all" in parts:
            raise UserError(
                f"image '{parts['all'][0].get('name')}' in '{listing.root / _XML}' is in no "
                "subset, but others are; move it into one of Train, Validation, Test"
            )
        return parts

    def draw(self, listing: Listing, part: list[_Element]) -> tuple[list[Drawn], Classes]:
        source = listing.root / _XML
        labels = [*_parse(source).iterfind("./meta//labels/label")]
        colors = {
            label.findtext("name", ""): hex_color(color)
            for label in labels
            if (color := label.findtext("color"))
        }
        names = [label.findtext("name", "") for label in labels if not label.findtext("parent")]
        classes, ids = drawn_classes(names, colors)
        found = [str(image.attrib["name"]) for image in part]
        subset = part[0].get("subset", "")
        images = listing.root / "images"
        folders = [images / subset, images / "default", images, listing.root]
        paths = ImageFiles(listing).find(found, folders)
        items = []
        for image, path in zip(part, paths, strict=True):
            with reading(source / image.attrib["name"], self.title):
                size = int(image.attrib["height"]), int(image.attrib["width"])
                items.append(Drawn(path, source / image.attrib["id"], size, _regions(image, ids)))
        return items, classes


class CvatMasks(ToolDataset):
    """ "Segmentation mask 1.1": ``labelmap.txt``, ``ImageSets``, ``SegmentationClass``, images.

    The masks hold the colours of ``labelmap.txt``, whose order is that of the class ids; in it is
    ``background``, black, for pixels without a label. The lists in ``ImageSets/Segmentation`` are
    the splits.
    """

    title = "CVAT's segmentation mask"
    needs = "labelmap.txt beside SegmentationClass"

    @staticmethod
    def recognise(listing: Listing) -> str | None:
        """Why the folder holds CVAT's masks, if it does."""
        if not CvatMasks.parts(listing):
            return None
        return "'labelmap.txt' gives the colours in 'SegmentationClass', as CVAT writes it"

    @classmethod
    def parts(cls, listing: Listing) -> dict[str, list[str]]:
        if not (listing.has("labelmap.txt") and listing.has("SegmentationClass")):
            return {}
        lists = [name for name in listing.folders.get(_LISTS, ()) if name.endswith(".txt")]
        parts = {
            split: [line.strip() for file in files for line in listing.text(file).splitlines()]
            for split, files in by_split((f"{_LISTS}/{name}" for name in lists), names=True).items()
        }
        return {split: names for split, lines in parts.items() if (names := [*filter(None, lines)])}

    def find(self, listing: Listing, part: list[str]) -> tuple[list[Path], list[Path], Classes]:
        names, colors = _labelmap(listing)
        if twice := {color for color in colors if colors.count(color) > 1}:
            raise UserError(
                f"two classes of '{listing.root / 'labelmap.txt'}' have the colour {twice.pop()}, "
                "so that masks do not say which; give each its own in CVAT and export again"
            )
        self._table = color_table(tuple(colors))
        files = ImageFiles(listing)
        wanted = [listing.root / "JPEGImages" / name for name in part]
        # a name may have a dot, so the suffix is added, not replaced
        images = [files.beside(path.with_name(f"{path.name}.x")) for path in wanted]
        if not any(images):
            raise UserError(
                f"no images in '{listing.root / 'JPEGImages'}'; export again with 'save images'"
            )
        paths = [
            image or path.with_name(f"{path.name}.jpg")
            for image, path in zip(images, wanted, strict=True)
        ]
        masks = [listing.root / "SegmentationClass" / f"{name}.png" for name in part]
        return paths, masks, Classes(tuple(names), tuple(colors))

    def read_mask(self, path: Path) -> Any:
        """Class ids of a mask in the colours of ``labelmap.txt``."""
        if path.exists() and not is_color(path):
            raise UserError(f"mask '{path}' has no colours; use CVAT's file")
        return read_colors(path, self._table, "in labelmap.txt")


def cvat_xml(
    predictions: Iterable[tuple[str, NDArray[np.uint8]]], classes: Classes
) -> ElementTree.Element:
    """Label maps as "CVAT for images 1.1": one mask for each class of an image.

    Args:
        predictions: file name and class ids (H, W) of each image.
        classes: the classes of the ids.
    """
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    labels = ElementTree.SubElement(task, "labels")
    written = written_labels(classes)
    for k, name in written.items():
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = name
        red, green, blue = classes.colors[k] if k < len(classes) else (0, 0, 0)
        ElementTree.SubElement(label, "color").text = f"#{red:02x}{green:02x}{blue:02x}"
    for number, (name, ids) in enumerate(predictions):
        height, width = map(str, ids.shape)
        about = {"id": str(number), "name": name, "width": width, "height": height}
        image = ElementTree.SubElement(root, "image", about)
        for k, label_name in written.items():
            if (ids == k).any():
                text = {key: str(value) for key, value in _box_of_runs(ids == k).items()}
                text |= {"label": label_name, "source": "auto", "occluded": "0", "z_order": "0"}
                ElementTree.SubElement(image, "mask", text)
    return root


def _box_of_runs(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """The box that holds a mask, and the run lengths of its rows."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    pixels = mask[top : rows[-1] + 1, left : columns[-1] + 1]  # (h, w)
    flat = np.concatenate([[False], pixels.ravel(), [not pixels[-1, -1]]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])  # from zeros to ones and back
    runs = np.diff(changes, prepend=0)
    return {
        "rle": ", ".join(map(str, runs.tolist())),
        "left": left,
        "top": top,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
    }


def _parse(path: Path) -> _Element:
    """The root of an XML file without entities or document types, which could take all memory."""
    parser: Any = import_extra("defusedxml.ElementTree", "labels")
    with reading(path, "CVAT"):
        root = parser.parse(path, forbid_dtd=True).getroot()
        if root.tag != "annotations":
            raise ValueError(f"it holds {root.tag}, not annotations")
        if root.find("track") is not None:
            raise ValueError("it is 'CVAT for video'; choose 'CVAT for images 1.1'")
        return root


def _regions(image: _Element, ids: dict[str, int]) -> Sequence[tuple[int, Shape]]:
    shapes = [shape for shape in image if shape.tag != "tag"]
    shapes.sort(key=lambda shape: int(shape.get("z_order", 0)))  # stable
    return [(ids[shape.attrib["label"]], _shape(shape)) for shape in shapes]


def _shape(shape: _Element) -> Shape:
    kind, value = shape.tag, shape.attrib
    if kind == "polygon":
        return Polygon([[float(v) for v in value["points"].replace(";", ",").split(",")]])
    if kind == "box":
        return _box(value)
    if kind == "ellipse":
        center, radii = (float(value["cx"]), float(value["cy"])), (value["rx"], value["ry"])
        return Ellipse(center, (float(radii[0]), float(radii[1])), float(value.get("rotation", 0)))
    if kind == "mask":
        runs = [int(run) for run in value["rle"].split(",")]
        size = int(value["height"]), int(value["width"])
        return Runs(runs, size, (int(value["left"]), int(value["top"])), by_columns=False)
    raise ValueError(f"a {kind} has no area; draw a polygon or a mask, or delete it")


def _box(value: dict[str, str]) -> Polygon:
    """A box, turned about its centre."""
    left, top, right, bottom = (float(value[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
    degrees = float(value.get("rotation", 0))
    turn = np.deg2rad(degrees)
    x, y = (left - right) / 2, (top - bottom) / 2  # of the corner, from the centre
    corner_x = (left + right) / 2 + x * np.cos(turn) - y * np.sin(turn)
    corner_y = (top + bottom) / 2 + x * np.sin(turn) + y * np.cos(turn)
    return rectangle(corner_x, corner_y, right - left, bottom - top, degrees)


def _labelmap(listing: Listing) -> tuple[list[str], list[Color]]:
    """Names and colours of ``labelmap.txt``: lines of ``label:red,green,blue:parts:actions``."""
    names, colors = [], []
    for line in listing.text("labelmap.txt").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, color = line.split(":")[:2]
        red, green, blue = (int(v) for v in color.split(","))
        names.append(name)
        colors.append((red, green, blue))
    return names, colors
