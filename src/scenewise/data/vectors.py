"""Polygons with coordinates: those of a label raster into a file, and those of a file by class."""

import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scenewise.classes import Classes
from scenewise.data.rasters import Block, GeoReference, Size, blocks
from scenewise.errors import UserError, choose, import_extra
from scenewise.files import atomic_write

VectorFormat = Literal["gpkg", "geojson"]

_AT_ONCE = 1000  # polygons in memory, each of up to thousands of corners
_WGS84 = "EPSG:4326"  # of GeoJSON, RFC 7946
_DIGITS = 8  # of a degree: a millimetre
_STARTS = {  # how files start; OGR has other drivers, which may connect to hosts
    b"SQLite format 3": "GeoPackage",
    b"{": "GeoJSON",
    b"fgb": "FlatGeobuf",
    b"\0\0\x27\x0a": "Shapefile",
}
_TOO_MANY = 255  # classes of a mask of bytes


class Polygons(NamedTuple):
    """Polygons of a file, in the order in which they are drawn.

    Attributes:
        shapes: of shapely, in the coordinates of the raster.
        values: of the column with the classes, as text; the same length.
        column: its name; empty if the file has no column.
        note: what a user should know; empty if nothing.
    """

    shapes: NDArray[np.object_]
    values: list[str]
    column: str
    note: str


def write_polygons(
    path: Path,
    size: Size,
    side: int,
    read: Callable[[Block], NDArray[np.uint8]],
    reference: GeoReference,
    classes: Classes,
) -> None:
    """Write the polygons of a label raster with their class, whole or not at all.

    ``.gpkg`` keeps the coordinates of the raster; ``.geojson`` has longitude and latitude, as its
    standard (RFC 7946) asks. Connected pixels of one class are one polygon; it is cut at multiples
    of ``side``, so that memory does not grow with ``size``.

    Args:
        path: ends in .gpkg or .geojson.
        size: height and width.
        side: of the squares that are read.
        read: gives (1, height, width), class ids.
        reference: where the pixels are.
        classes: the ignored id is not written.

    Raises:
        UserError: the file cannot be written, or the raster has ground control points alone.
    """
    if reference.gcps[0]:
        raise UserError(
            "polygons need a transform, and the raster has ground control points; warp it first"
        )
    found = _polygons(size, side, read, reference, classes.ignore_index)
    with atomic_write(path) as temporary:
        if path.suffix == ".geojson":
            _write_geojson(temporary, found, reference.crs, classes)
        else:
            _write_geopackage(temporary, found, reference.crs, classes)


def _polygons(
    size: Size,
    side: int,
    read: Callable[[Block], NDArray[np.uint8]],
    reference: GeoReference,
    ignore: int,
) -> Iterator[tuple[dict[str, Any], int]]:
    """Each polygon as GeoJSON, with its class id."""
    features = import_extra("rasterio.features", "geo")
    for block in blocks(size, side):
        ids = read(block)[0]  # (h, w)
        place = reference.moved(block)
        for shape, value in features.shapes(ids, mask=ids != ignore, transform=place):
            yield shape, int(value)


def _write_geojson(
    path: Path, found: Iterator[tuple[dict[str, Any], int]], crs: Any, classes: Classes
) -> None:
    warp = import_extra("rasterio.warp", "geo")
    with path.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        separator = "\n"
        while batch := list(islice(found, _AT_ONCE)):
            shapes = [shape for shape, _ in batch]
            if crs:
                shapes = warp.transform_geom(crs, _WGS84, shapes, precision=_DIGITS)
            for shape, (_, k) in zip(shapes, batch, strict=True):
                properties = {"class_id": k, "class": classes.names[k]}
                feature = {"type": "Feature", "properties": properties, "geometry": shape}
                file.write(f"{separator}{json.dumps(feature, ensure_ascii=False)}")
                separator = ",\n"
        file.write("\n]}\n")


def _write_geopackage(
    path: Path, found: Iterator[tuple[dict[str, Any], int]], crs: Any, classes: Classes
) -> None:
    shapely, raw = import_extra("shapely", "geo"), import_extra("pyogrio.raw", "geo")
    path.unlink()  # the driver makes the file
    batch = list(islice(found, _AT_ONCE))
    append = False
    while batch or not append:
        shapes = [shapely.geometry.shape(shape) for shape, _ in batch]
        ids = np.array([k for _, k in batch], np.int32)
        names = np.array([classes.names[k] for k in ids], dtype=object)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*'crs' was not provided")
            try:
                raw.write(
                    path,
                    shapely.to_wkb(np.array(shapes, dtype=object)),
                    [ids, names],
                    ["class_id", "class"],
                    layer="labels",
                    driver="GPKG",
                    geometry_type="Polygon",
                    crs=crs.to_wkt() if crs else None,
                    append=append,
                )
            except Exception as error:  # GDAL raises errors of many kinds
                raise OSError(str(error)) from error
        append, batch = True, list(islice(found, _AT_ONCE))


def read_polygons(path: str | os.PathLike[str], crs: Any, column: str | None = None) -> Polygons:
    """The polygons of a GeoPackage, GeoJSON, FlatGeobuf or Shapefile, by class.

    Args:
        path: the file; of several layers the first.
        crs: the coordinate reference system of the raster, of rasterio; None if it has none.
        column: with the classes; by default the only one of text or whole numbers.

    Raises:
        UserError: the file is missing, damaged or of another type, has no polygons or others
            besides, or its column or coordinates are ambiguous.
    """
    raw, shapely = import_extra("pyogrio.raw", "geo"), import_extra("shapely", "geo")
    file = Path(path)
    _check_type(file)
    try:
        meta, _, geometry, data = raw.read(file.absolute(), force_2d=True)
        shapes = shapely.from_wkb(geometry)
    except Exception as error:  # GDAL raises errors of many kinds
        raise UserError(f"cannot read vector file '{file}' ({error}); replace it") from error
    used = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
    kinds = {shape.geom_type for shape in shapes[used]}
    if not kinds or kinds - {"Polygon", "MultiPolygon"}:
        others = ", ".join(sorted(kinds - {"Polygon", "MultiPolygon"})) or "nothing"
        raise UserError(f"vector file '{file}' holds {others}; give one of polygons alone")
    shapes, note = _in_raster(shapes[used], meta["crs"], crs, file)
    fields = dict(zip(map(str, meta["fields"]), data, strict=True))
    name = _column(fields, column, file)
    values = [str(value) for value in fields[name][used]] if name else ["object"] * len(shapes)
    return Polygons(shapes, values, name, note)


def classes_of(values: Sequence[str], background: str | None = None) -> Classes:
    """The classes of polygons: whole numbers in their order, else texts; ``background`` first.

    >>> classes_of(["10", "9", "10"], "background").names
    ('background', '9', '10')
    """
    names = sorted(set(values))
    if all(name.lstrip("-").isdigit() for name in names):
        names.sort(key=int)
    if background is not None:
        names = [background, *(name for name in names if name != background)]
    if len(names) > _TOO_MANY:
        raise UserError(
            f"the column has {len(names)} values, and masks hold {_TOO_MANY} classes; give "
            "--column with the classes"
        )
    return Classes(tuple(names), Classes.numbered(len(names)).colors)


def _check_type(file: Path) -> None:
    try:
        with file.open("rb") as opened:
            start = opened.read(512).removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")
    except OSError as error:
        raise UserError(
            f"vector file '{file}' cannot be read: {error.strerror}; check the path"
        ) from error
    if not any(start.startswith(magic) for magic in _STARTS):
        raise UserError(
            f"vector file '{file}' is of an unsupported type; save it as "
            f"{', '.join(_STARTS.values())}"
        )


def _in_raster(
    shapes: NDArray[np.object_], source: str | None, crs: Any, file: Path
) -> tuple[NDArray[np.object_], str]:
    """The polygons in the coordinates of the raster, and a note."""
    if source is None:
        return shapes, f"'{file}' has no CRS; its coordinates are taken as the raster's"
    if not crs:
        raise UserError(
            f"vector file '{file}' has the CRS {source} and the raster has none; give the raster "
            "its CRS, for example with gdal_edit.py -a_srs"
        )
    target = import_extra("rasterio.crs", "geo").CRS.from_user_input(source)
    if target == crs:
        return shapes, ""
    warp, shapely = import_extra("rasterio.warp", "geo"), import_extra("shapely", "geo")

    def move(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack(warp.transform(target, crs, points[:, 0], points[:, 1])[:2], axis=1)

    return shapely.transform(shapes, move), f"polygons of '{file}' are moved from {source}"


def _column(fields: dict[str, NDArray[Any]], column: str | None, file: Path) -> str:
    if column is not None:
        if column not in fields:
            raise UserError(
                f"vector file '{file}' has no column '{column}'; {choose(column, fields)}"
            )
        return column
    usable = [name for name, data in fields.items() if data.dtype.kind in "OUiu"]
    if len(usable) > 1:
        raise UserError(
            f"vector file '{file}' has the columns {', '.join(usable)}; give --column with the one "
            "that holds the classes"
        )
    return usable[0] if usable else ""
