"""VGG Image Annotator (VIA, version 2): its JSON of regions, or a saved project."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scenewise.classes import Classes
from scenewise.data.formats.listing import Listing
from scenewise.data.formats.regions import Ellipse, Polygon, Shape, rectangle
from scenewise.data.formats.tool_dataset import (
    Drawn,
    DrawnDataset,
    ImageFiles,
    by_split,
    drawn_classes,
    read_json,
)
from scenewise.errors import UserError

_USUAL = ("class", "label", "name", "type", "category")  # attributes that name the class
_ONLY = "object"  # the class where no region has an attribute
_FEW = 20  # JSON files that are looked into
_Region = dict[str, Any]


class Via(DrawnDataset):
    """One JSON file of VIA for each split, with the images beside it.

    Polygons, rectangles, circles and ellipses are drawn, later ones on earlier ones; other pixels
    are background. The class is the regions' only attribute, or the one called class, label, name,
    type or category; without any attribute all regions are ``object``.
    """

    title = "VIA"
    needs = "a JSON file of VGG Image Annotator"

    @staticmethod
    def recognise(listing: Listing) -> str | None:
        """Why the folder holds VIA's JSON, if it does."""
        files = _files(listing)
        return f"'{files[0]}' has regions of VGG Image Annotator" if files else None

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
        contents = {path: _images(listing.root / path) for path in _files(listing)}
        every = [r for images in contents.values() for image in images for r in _regions(image)]
        attribute = _attribute(every)
        labels = sorted({_label(region, attribute) for region in every})
        classes, ids = drawn_classes(labels)
        source = listing.root / part
        entries = contents[part]
        folders = [source.parent, source.parent / "images", listing.root / "images"]
        names = [str(entry["filename"]) for entry in entries]
        images = ImageFiles(listing).find(names, folders)
        items = [
            Drawn(
                image,
                source / str(number),
                None,
                [(ids[_label(r, attribute)], _shape(r["shape_attributes"])) for r in _regions(e)],
            )
            for number, (image, e) in enumerate(zip(images, entries, strict=True))
        ]
        return items, classes


def _files(listing: Listing) -> list[str]:
    near = [path for path in listing.match("*.json") if path.count("/") < 3][:_FEW]
    return [path for path in near if '"shape_attributes"' in listing.text(path)]


def _images(path: Path) -> list[dict[str, Any]]:
    content = read_json(path, "VIA")
    images = content.get("_via_img_metadata", content)
    return [entry for entry in images.values() if isinstance(entry, dict) and "filename" in entry]


def _regions(image: dict[str, Any]) -> Iterable[_Region]:
    regions = image.get("regions") or []
    return regions.values() if isinstance(regions, dict) else regions  # version 1 numbers them


def _attribute(regions: list[_Region]) -> str | None:
    """The attribute that holds the class.

    Raises:
        UserError: there are several, and none has a usual name.
    """
    used: list[str] = sorted(
        {key for region in regions for key in region.get("region_attributes") or {}}
    )
    named = [key for key in used if key.casefold() in _USUAL]
    if len(used) <= 1:
        return used[0] if used else None
    if len(named) != 1:
        raise UserError(
            f"the regions have the attributes {', '.join(used)}, and the class may be in any; call "
            "the one of the class 'class' and the others otherwise"
        )
    return named[0]


def _label(region: _Region, attribute: str | None) -> str:
    if attribute is None:
        return _ONLY
    value: Any = (region.get("region_attributes") or {}).get(attribute)
    if isinstance(value, dict):  # checkboxes
        chosen = [name for name, state in value.items() if state]
        value = chosen[0] if len(chosen) == 1 else None
    if not value or not isinstance(value, str):
        raise ValueError(f"a region has no single '{attribute}'; give it one")
    return value.strip()


def _shape(shape: dict[str, Any]) -> Shape:
    kind = shape["name"]
    if kind == "polygon":
        points = zip(shape["all_points_x"], shape["all_points_y"], strict=True)
        return Polygon([[float(v) for point in points for v in point]])
    if kind == "rect":
        return rectangle(*(float(shape[key]) for key in ("x", "y", "width", "height")))
    center = (float(shape["cx"]), float(shape["cy"])) if "cx" in shape else (0.0, 0.0)
    if kind == "circle":
        return Ellipse(center, (float(shape["r"]), float(shape["r"])))
    if kind == "ellipse":
        turn = float(shape.get("theta", 0)) * 180 / 3.141592653589793  # stored in radians
        return Ellipse(center, (float(shape["rx"]), float(shape["ry"])), turn)
    raise ValueError(f"a region of type {kind} has no area; draw a polygon, or delete it")
