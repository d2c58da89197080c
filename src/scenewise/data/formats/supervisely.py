"""Supervisely: its project format (bitmaps, polygons) and machine masks."""

import base64
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from scenewise.classes import Classes
from scenewise.data.formats.label_maps import (
    color_table,
    id_table,
    is_color,
    read_colors,
    translate,
)
from scenewise.data.formats.listing import Listing
from scenewise.data.formats.regions import Bitmap, Polygon, Region, Shape, Size, rectangle
from scenewise.data.formats.tool_dataset import (
    Drawn,
    DrawnDataset,
    ImageFiles,
    ToolDataset,
    by_split,
    drawn_classes,
    hex_color,
    read_json,
    reading,
)
from scenewise.data.images import read_mask
from scenewise.errors import UserError

_META = "meta.json"
_MACHINE = "obj_class_to_machine_color.json"
_LARGEST = 2**26  # bytes of an unpacked bitmap


class Supervisely(DrawnDataset):
    """A project: ``meta.json`` and, in each dataset, ``img/NAME.jpg`` with ``ann/NAME.jpg.json``.

    Bitmaps, polygons with holes and rectangles are drawn, later ones on earlier ones; other
    pixels are background. The splits are datasets called train, val, test.
    """

    title = "Supervisely"
    needs = "meta.json beside folders with img and ann"

    @staticmethod
    def recognise(listing: Listing) -> str | None:
        """Why the folder holds a project of Supervisely, if it does."""
        if listing.has(_MACHINE) or not Supervisely.parts(listing):
            return None
        return "'meta.json' is beside folders with 'ann', as Supervisely writes it"

    @classmethod
    def parts(cls, listing: Listing) -> dict[str, list[str]]:
        files = [
            path
            for path in listing.paths
            if path.endswith(".json") and PurePosixPath(path).parent.name == "ann"
        ]
        return by_split(files) if listing.has(_META) else {}

    def draw(self, listing: Listing, part: list[str]) -> tuple[list[Drawn], Classes]:
        meta = read_json(listing.root / _META, self.title)["classes"]
        colors = {str(entry["title"]): hex_color(entry["color"]) for entry in meta}
        classes, self._ids = drawn_classes([str(entry["title"]) for entry in meta], colors)
        files = ImageFiles(listing)
        items = []
        for source in (listing.root / path for path in part):
            name = source.name.removesuffix(".json")
            folder = source.parent.parent / "img"
            image = files.at(folder, name) or files.beside(folder / source.name)
            items.append(Drawn(image or folder / name, source, None))
        return items, classes

    def regions(self, item: Drawn, size: Size) -> Sequence[Region]:
        """The objects of an annotation file."""
        content = read_json(item.source, self.title)
        said = int(content["size"]["height"]), int(content["size"]["width"])
        if said != size:
            raise UserError(
                f"'{item.source}' was drawn on {said[1]} x {said[0]} pixels, but image "
                f"'{item.image}' has {size[1]} x {size[0]}; give the image that was labelled"
            )
        return [(self._ids[entry["classTitle"]], _shape(entry)) for entry in content["objects"]]


class SuperviselyMasks(ToolDataset):
    """Machine masks: ``img/NAME.jpg`` with ``masks_machine/NAME.png`` in each dataset.

    ``obj_class_to_machine_color.json`` gives the value of each class; 0 is background.
    """

    title = "Supervisely's machine masks"
    needs = f"{_MACHINE} beside folders with img and masks_machine"

    @staticmethod
    def recognise(listing: Listing) -> str | None:
        """Why the folder holds machine masks, if it does."""
        return f"'{_MACHINE}' gives the values of 'masks_machine'" if _masks(listing) else None

    @classmethod
    def parts(cls, listing: Listing) -> dict[str, list[str]]:
        return by_split(_masks(listing))

    def find(self, listing: Listing, part: list[str]) -> tuple[list[Path], list[Path], Classes]:
        content = read_json(listing.root / _MACHINE, self.title)
        with reading(listing.root / _MACHINE, self.title):
            by_color = sorted((tuple(map(int, color[:3])), name) for name, color in content.items())
        classes, ids = drawn_classes([name for _, name in by_color])
        value_of = {color: ids[name] for color, name in by_color} | {(0, 0, 0): 0}
        if len(value_of) != len(by_color) + (by_color[0][0] != (0, 0, 0)):
            raise UserError(
                f"two classes of '{listing.root / _MACHINE}' share a colour; change one"
            )
        self._grey = id_table({c[0]: k for c, k in value_of.items() if len({*c}) == 1})
        ordered = sorted(value_of, key=lambda color: value_of[color])
        self._colors = color_table(tuple((c[0], c[1], c[2]) for c in ordered))
        files = ImageFiles(listing)
        images, masks = [], [listing.root / path for path in part]
        for mask in masks:
            folder = mask.parent.parent / "img"
            images.append(
                files.at(folder, mask.name.removesuffix(".png"))  # NAME.jpg.png
                or files.beside(folder / mask.name)
                or folder / mask.name
            )
        return images, masks, classes

    def read_mask(self, path: Path) -> Tensor:
        """The class ids in a machine mask, grey or in colours."""
        if is_color(path):
            return read_colors(path, self._colors, f"in {_MACHINE}")
        return translate(read_mask(path).numpy(), self._grey, path, f"in {_MACHINE}")


def _masks(listing: Listing) -> list[str]:
    folders = [f for f in listing.folders if PurePosixPath(f).name == "masks_machine"]
    if not listing.has(_MACHINE):
        return []
    return [f"{f}/{name}" for f in folders for name in listing.folders[f] if name.endswith(".png")]


def _shape(entry: dict[str, Any]) -> Shape:
    kind = entry["geometryType"]
    if kind == "bitmap":
        left, top = entry["bitmap"]["origin"]
        return Bitmap(_unpack(entry["bitmap"]["data"]), (int(left), int(top)))
    if kind in ("polygon", "rectangle"):
        outer = [[float(v) for v in point] for point in entry["points"]["exterior"]]
        if kind == "rectangle":
            (x0, x1), (y0, y1) = sorted(p[0] for p in outer), sorted(p[1] for p in outer)
            return rectangle(x0, y0, x1 - x0, y1 - y0)
        holes = [[float(v) for p in ring for v in p] for ring in entry["points"]["interior"]]
        return Polygon([[v for point in outer for v in point]], holes)
    raise ValueError(f"an object of type {kind} has no area; draw a polygon, or delete it")


def _unpack(text: str) -> bytes:
    """A bitmap's PNG: base64 of its zlib compression."""
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(base64.b64decode(text, validate=True), _LARGEST)
    except zlib.error as error:
        raise ValueError(f"a bitmap is damaged: {error}") from error
    if unpacker.unconsumed_tail:
        raise ValueError(f"a bitmap unpacks to more than {_LARGEST:,} bytes")
    return content
