"""Training images from a raster and polygons: windows with masks, divided by location."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from scenewise.classes import Classes
from scenewise.data.division import divide
from scenewise.data.images import encode_image
from scenewise.data.prepare import indexed_image
from scenewise.data.rasters import Block, GeoReference, Raster, Size, blocks, open_raster
from scenewise.data.vectors import classes_of, read_polygons
from scenewise.errors import UserError, import_extra
from scenewise.files import atomic_write, parse_json, write_json

Rest = Literal["background", "ignore"]  # what pixels without a polygon are
_REGIONS = 4  # regions along a side of the raster, at least, if it has so many windows
_MOST_WINDOWS = 8  # along a side of a region
_NEIGHBOURS = (
    "training and validation share regions, because whole regions would leave training without a "
    "class; the validation is too easy"
)


class Written(NamedTuple):
    """What :func:`cut_windows` wrote: windows by split, the classes, and notes."""

    windows: dict[str, int]
    classes: Classes
    notes: list[str]


def cut_windows(
    raster: Path,
    vector: Path,
    out: Path,
    *,
    rest: Rest,
    column: str | None = None,
    side: int = 512,
    val_share: float = 0.2,
    progress: Callable[[Iterable[Any], int, str], Iterable[Any]] = lambda items, *_: items,
) -> Written:
    """Cut a raster into windows with masks of its polygons, as the format ``folder`` reads them.

    Windows do not overlap, and those without a labelled pixel are left out. Those of a region, a
    square of several windows, are all for training or all for validation: neighbours look alike,
    so a validation among them would promise too much. A pixel belongs to the last polygon that
    holds its centre; pixels without data are ignored. Existing masks are kept, so that a second
    call resumes.

    Args:
        raster: any type that :func:`~scenewise.data.rasters.open_raster` opens.
        vector: polygons, see :func:`~scenewise.data.vectors.read_polygons`.
        out: folder to write.
        rest: pixels without a polygon are the class "background", or ignored.
        column: of the vector file, with the classes.
        side: of a window, in pixels.
        val_share: of the windows that are for validation.
        progress: wraps an iterable of known length, to show a progress bar.

    Raises:
        UserError: a file is damaged or ambiguous, no polygon is on the raster, or ``out`` is not
            writable or holds windows of other options.
    """
    with open_raster(raster) as opened:
        polygons = read_polygons(vector, opened.reference.crs, column)
        background = "background" if rest == "background" else None
        classes = classes_of(polygons.values, background)
        if len(classes) == 1:
            raise UserError(
                f"'{vector}' holds one class, '{classes.names[0]}', and the rest is ignored, so "
                "there is nothing to distinguish; give --rest background, or another --column"
            )
        ids = np.array([classes.names.index(value) for value in polygons.values], np.uint8)
        drawing = _Drawing(polygons.shapes, ids, opened.reference, classes.ignore_index, rest)
        options = {"rest": rest, "column": polygons.column, "side": side, "val_share": val_share}
        _check_same(out / "windows.json", {**options, **_identity(raster), **_identity(vector)})
        write_json(out / "classes.json", classes.to_dict())
        places = list(blocks(opened.size, side))
        present = np.zeros((len(places), len(classes)), bool)
        for k, place in progress(enumerate(places), len(places), "drawing polygons"):
            found = np.unique(_labels(opened, drawing, place))
            present[k, found[found != classes.ignore_index]] = True
        kept = np.flatnonzero(present.any(1))
        if not drawing.touched or not len(kept):
            raise UserError(
                f"no polygon of '{vector}' is on raster '{raster}'; check their coordinates"
            )
        splits, note = _divided(
            [places[k] for k in kept], present[kept], opened.size, side, val_share
        )
        for split, chosen in splits.items():
            for place in progress(chosen, len(chosen), f"writing {split}"):
                _write(opened, drawing, place, out, split, raster.stem, classes)
    counts = {split: len(chosen) for split, chosen in splits.items()}
    return Written(counts, classes, [text for text in (polygons.note, note) if text])


@dataclass
class _Drawing:
    """Polygons that are drawn into windows."""

    shapes: NDArray[np.object_]
    ids: NDArray[np.uint8]
    reference: GeoReference
    ignore: int
    rest: Rest
    touched: bool = False  # whether any polygon was drawn

    def draw(self, place: Block) -> NDArray[np.uint8]:
        """Class ids (H, W)."""
        features, shapely = import_extra("rasterio.features", "geo"), import_extra("shapely", "geo")
        (top, bottom), (left, right) = place
        corners = [self.reference.corner(x, y) for x in (left, right) for y in (top, bottom)]
        around = shapely.MultiPoint(corners).envelope
        chosen = np.sort(self._tree.query(around))  # in the order of the file
        fill = 0 if self.rest == "background" else self.ignore
        if not len(chosen):
            return np.full(place.size, fill, np.uint8)
        self.touched = True
        drawn: NDArray[np.uint8] = features.rasterize(
            zip(self.shapes[chosen], self.ids[chosen].tolist(), strict=True),
            out_shape=place.size,
            fill=fill,
            transform=self.reference.moved(place),
            dtype="uint8",
        )
        return drawn

    @cached_property
    def _tree(self) -> Any:
        return import_extra("shapely", "geo").STRtree(self.shapes)


def _labels(raster: Raster, drawing: _Drawing, place: Block) -> NDArray[np.uint8]:
    ids = drawing.draw(place)
    ids[~raster.known(place)] = drawing.ignore
    return ids


def _divided(
    places: Sequence[Block], present: NDArray[np.bool_], size: Size, side: int, share: float
) -> tuple[dict[str, list[Block]], str]:
    """The windows of training and of validation, and how they were divided."""
    windows = max(1, min(math.ceil(length / side) for length in size))
    region = side * min(_MOST_WINDOWS, max(1, windows // _REGIONS))
    homes = [f"{place.rows[0] // region}_{place.columns[0] // region}" for place in places]
    names = [f"{home}/{k}" for k, home in enumerate(homes)]
    train, val = divide(names, present, share, seed=0) if len(places) > 1 else ([0], [])
    shared = {homes[k] for k in train} & {homes[k] for k in val}
    note = _NEIGHBOURS if shared else f"regions of {region} x {region} pixels stay together"
    return {"train": [places[k] for k in train], "val": [places[k] for k in val]}, note


def _write(
    raster: Raster,
    drawing: _Drawing,
    place: Block,
    out: Path,
    split: str,
    stem: str,
    classes: Classes,
) -> None:
    name = f"{stem}_{place.rows[0]}_{place.columns[0]}"
    mask = out / "masks" / split / f"{name}.png"
    if mask.exists():
        return
    suffix, content = encode_image(raster.read(place)[0])
    with atomic_write(out / "images" / split / f"{name}{suffix}") as temporary:
        temporary.write_bytes(content)
    with atomic_write(mask) as temporary:
        ids = torch.from_numpy(_labels(raster, drawing, place))
        indexed_image(ids, classes).save(temporary, format="PNG")


def _identity(file: Path) -> dict[str, list[int]]:
    status = file.stat()
    return {file.name: [status.st_size, status.st_mtime_ns]}


def _check_same(path: Path, options: dict[str, Any]) -> None:
    """Raise a UserError if an earlier call wrote windows of other options; else note these."""
    try:
        earlier = parse_json(path.read_bytes())
    except FileNotFoundError:
        earlier = options
    except ValueError:
        earlier = None
    if earlier != options:
        raise UserError(
            f"'{path.parent}' already holds windows of other files or options; use another folder"
        )
    write_json(path, options)
