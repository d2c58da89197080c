"""Rasters (GeoTIFF, COG, VRT, large images), read block by block with rasterio."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tifffile import TiffFile
from torch import Tensor

from scenewise.data.images import chosen_channels
from scenewise.data.layout import RGB, Layout
from scenewise.data.tiff import Raw, is_tiff
from scenewise.errors import UserError, import_extra

Size = tuple[int, int]
Interval = tuple[int, int]  # the first and the past-the-last pixel
When = Literal["auto", "yes", "no"]  # which files are rasters: those with coordinates, all, none

_DRIVERS = {  # by how files start; GDAL's others may start programs or connect to hosts
    b"\x89PNG": "PNG",
    b"\xff\xd8": "JPEG",
    b"\0\0\0\x0cjP": "JP2OpenJPEG",
    b"<VRTDataset": "VRT",
}
_GEOTIFF_TAGS = (33550, 33922, 34264, 34735)  # pixel scale, tie points, transform, geographic keys
_LEAST_CACHE, _MOST_CACHE = 64, 1024  # MB of decoded blocks that GDAL keeps


class Block(NamedTuple):
    """A rectangle of pixels."""

    rows: Interval
    columns: Interval

    @property
    def size(self) -> Size:
        """Height and width."""
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]

    def __str__(self) -> str:
        """For messages.

        >>> str(Block((0, 16), (32, 48)))
        'rows 0 to 15, columns 32 to 47'
        """
        rows, columns = self
        return f"rows {rows[0]} to {rows[1] - 1}, columns {columns[0]} to {columns[1] - 1}"


class GeoReference(NamedTuple):
    """Where the pixels of a raster are, in the types of rasterio."""

    crs: Any
    transform: Any
    gcps: tuple[list[Any], Any]
    rpcs: Any
    area_or_point: str | None

    def corner(self, column: int, row: int) -> tuple[float, float]:
        """The coordinates of the top left corner of a pixel."""
        a, b, c, d, e, f = self.transform[:6]
        return a * column + b * row + c, d * column + e * row + f

    def moved(self, block: Block) -> Any:
        """The transform of the pixels of ``block``."""
        a, b, _, d, e, _ = self.transform[:6]
        x, y = self.corner(block.columns[0], block.rows[0])
        return type(self.transform)(a, b, x, d, e, y)


def blocks(size: Size, side: int) -> Iterator[Block]:
    """The squares of ``side`` pixels that cover ``size``, row by row, cut at the border.

    >>> [block.columns for block in blocks((5, 40), 16)]
    [(0, 16), (16, 32), (32, 40)]
    """
    for top in range(0, size[0], side):
        for left in range(0, size[1], side):
            yield Block((top, min(top + side, size[0])), (left, min(left + side, size[1])))


def with_halo(block: Block, size: Size, side: int, halo: int) -> Block:
    """``block`` with ``halo`` more pixels on each side; at the border of ``size`` shifted inside.

    So all have the same size, and none is narrow, unless the raster is.

    >>> with_halo(Block((0, 16), (32, 40)), (100, 40), 16, 4)
    Block(rows=(0, 24), columns=(16, 40))
    """
    around = []
    for (first, _), length in zip(block, size, strict=True):
        extent = min(length, side + 2 * halo)
        start = max(0, min(first - halo, length - extent))
        around.append((start, start + extent))
    return Block(*around)


def is_raster(path: Path, when: When = "auto") -> bool:
    """Whether a file is read as a raster; by default a VRT, or a TIFF with coordinates."""
    if when != "auto":
        return when == "yes"
    if path.suffix.lower() == ".vrt":
        return True
    try:
        with path.open("rb") as file:
            return has_coordinates(file)
    except OSError:  # whoever reads the image reports it
        return False


def has_coordinates(file: BinaryIO) -> bool:
    """Whether an open file is a TIFF with coordinates."""
    try:
        if not is_tiff(file.read(4)):
            return False
        file.seek(0)
        with TiffFile(file) as tiff:
            tags = tiff.pages[0].aspage().tags
            return any(tag in tags for tag in _GEOTIFF_TAGS)
    except Exception:  # damaged: whoever reads the image reports it
        return False


class Raster:
    """An open raster; see :func:`open_raster`.

    Attributes:
        size: height and width.
        reference: where its pixels are.
    """

    def __init__(self, source: Any, path: Path, layout: Layout | None = None) -> None:
        self._source, self._path = source, path
        self._layout = layout or _own_layout(source)
        self.size: Size = source.shape
        tags = source.tags()
        self.reference = GeoReference(
            source.crs, source.transform, source.gcps, source.rpcs, tags.get("AREA_OR_POINT")
        )
        self._bands = self._used_bands()

    def read(self, block: Block) -> tuple[Tensor, NDArray[np.bool_]]:
        """The values (C, H, W) in ``block``, and which pixels (H, W) hold data.

        uint8 as stored, wider values as float32. A pixel holds data if one of its channels does;
        missing values of more than 8 bits become the smallest other value of the block.

        Raises:
            UserError: the block is damaged, or has other channels or bits than the layout.
        """
        values, known = self.stored(block)
        if self._has_palette():
            values = self._palette()[:, values[0]]
        elif values.dtype != np.uint8:
            values = values.astype(np.float32)
            known &= np.isfinite(values)
            if not known.all():
                values[~known] = values[known].min() if known.any() else 0
        raw = Raw(torch.from_numpy(np.ascontiguousarray(values)), rgb=False)
        try:
            return chosen_channels(raw, replace(self._layout, channels=None)), _any(known)
        except UserError as error:
            raise UserError(f"raster '{self._path}': {error}") from error

    def known(self, block: Block) -> NDArray[np.bool_]:
        """Which pixels (H, W) of ``block`` hold data; see :meth:`read`."""
        values, known = self.stored(block)
        if values.dtype.kind == "f":
            known &= np.isfinite(values)
        return _any(known)

    def stored(self, block: Block) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The values (C, H, W) as they are stored, and which of them are no missing ones."""
        window = import_extra("rasterio.windows", "geo").Window.from_slices(*block)
        try:
            values = self._source.read(self._bands, window=window)
            return values, self._source.read_masks(self._bands, window=window) > 0
        except Exception as error:  # GDAL raises errors of many kinds
            raise UserError(
                f"raster '{self._path}' is damaged at {block} ({error.__cause__ or error}); "
                "replace the file, or cut these pixels off"
            ) from error

    def _used_bands(self) -> list[int]:
        """The bands to read, counted from 1: those of the layout, else all but alpha."""
        if any(dtype.startswith("complex") for dtype in self._source.dtypes):
            raise UserError(f"raster '{self._path}' holds complex values; save their magnitude")
        count, chosen = self._source.count, self._layout.channels
        if chosen is None:
            kinds = self._source.colorinterp
            return [k + 1 for k in range(count) if kinds[k].name != "alpha"]
        if max(chosen) >= count:
            raise UserError(
                f"raster '{self._path}' has {count} bands, and those with the indices "
                f"{', '.join(map(str, chosen))} are expected; give a raster that has them"
            )
        return [k + 1 for k in chosen]

    def _has_palette(self) -> bool:
        kinds = self._source.colorinterp
        return self._layout.rgb and len(self._bands) == 1 and kinds[0].name == "palette"

    def _palette(self) -> NDArray[np.uint8]:
        """Colours (3, 256) of the values of an indexed raster."""
        table = np.zeros((3, 256), np.uint8)
        for value, color in self._source.colormap(1).items():
            table[:, value] = color[:3]
        return table


@contextmanager
def open_raster(
    path: str | os.PathLike[str], layout: Layout | None = None, rows: int = 1024
) -> Iterator[Raster]:
    """Open a raster of any size: its header is read, and blocks when they are asked for.

    GDAL keeps decoded blocks, at most 1 GB. It opens no network connection and runs no code that a
    VRT contains.

    Args:
        path: the file.
        layout: the channels and bits that are expected; by default those of the file.
        rows: of a block with its halo. A file without tiles is decoded row by row, and so many rows
            are kept for the next block.

    Raises:
        UserError: rasterio is missing, the file too, or it is not a raster of a supported type.
    """
    rasterio = import_extra("rasterio", "geo")
    file = Path(path)
    if not file.is_file():
        raise UserError(f"raster '{file}' not found; check the path")
    with gdal(), warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        try:
            source = rasterio.open(file.absolute(), driver=_driver(file))
        except Exception as error:
            raise UserError(
                f"raster '{file}' cannot be read ({error}); give a GeoTIFF, a VRT or an image"
            ) from error
        with source, gdal(_cache(source, rows)):
            yield Raster(source, file, layout)


def read_tags(path: Path) -> dict[str, str]:
    """The texts that GDAL keeps with a raster, by name."""
    with gdal(), import_extra("rasterio", "geo").open(path, driver="GTiff") as file:
        return dict(file.tags())


def gdal(cache: int = _LEAST_CACHE) -> Any:
    """The settings of GDAL inside a ``with``: a ``cache`` in MB, no network, no code of files."""
    return import_extra("rasterio", "geo").Env(
        GDAL_CACHEMAX=cache,
        GDAL_VRT_ENABLE_PYTHON="NO",
        CPL_VSIL_CURL_ALLOWED_EXTENSIONS=".none",
    )


def _own_layout(source: Any) -> Layout:
    """The channels and bits of an open raster; those of a palette are colours."""
    kinds = [kind.name for kind in source.colorinterp]
    if kinds == ["palette"]:
        return RGB
    return Layout(
        len(kinds) - kinds.count("alpha"), rgb=False, wide=set(source.dtypes) != {"uint8"}
    )


def _any(known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(C, H, W) -> (H, W)."""
    found: NDArray[np.bool_] = np.logical_or.reduce(known)
    return found


def _driver(file: Path) -> str:
    """The driver of GDAL for a file, by its content."""
    with file.open("rb") as opened:
        start = opened.read(512)
    if is_tiff(start):
        return "GTiff"
    for magic, driver in _DRIVERS.items():
        if start.lstrip().startswith(magic):
            return driver
    raise ValueError("its type is unknown")


def _cache(source: Any, rows: int) -> int:
    """MB that hold the rows of all blocks beside each other, if the file stores whole rows."""
    if all(width < source.width for _, width in source.block_shapes):
        return 4 * _LEAST_CACHE
    row = source.width * sum(np.dtype(dtype).itemsize for dtype in source.dtypes)  # bytes
    return int(min(max(int(1.25 * rows) * row // 2**20, _LEAST_CACHE), _MOST_CACHE))
