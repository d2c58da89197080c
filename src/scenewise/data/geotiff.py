"""Writing rasters: tiled and compressed GeoTIFF with overviews, block by block."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scenewise.data.rasters import Block, GeoReference, Size, blocks, gdal
from scenewise.errors import UserError, import_extra
from scenewise.files import atomic_write

_TILE = 512  # pixels; a side of blocks that it does not divide has smaller tiles
_SMALLEST = 256  # overviews are made until one is at most so large
_CACHE = 256  # MB


@dataclass(frozen=True)
class Content:
    """What a GeoTIFF of bytes holds.

    Attributes:
        nodata: the value of pixels without data.
        bands: the names of the bands; empty names are not written.
        colors: of the values from 0 up, for a single band of classes; None for measurements.
        scale: what a value is multiplied by.
        tags: texts by name.
    """

    nodata: int
    bands: Sequence[str] = ("",)
    colors: Sequence[tuple[int, int, int]] | None = None
    scale: float = 1.0
    tags: tuple[tuple[str, str], ...] = ()


def write_geotiff(
    path: Path,
    size: Size,
    side: int,
    read: Callable[[Block], NDArray[np.uint8]],
    reference: GeoReference,
    content: Content,
) -> None:
    """Write what ``read`` returns for each block of ``side`` pixels, whole or not at all.

    The file is read again and compared, because GDAL does not report every failed write. Overviews
    hold the most frequent class, or the mean of measurements. Memory does not grow with ``size``.

    Args:
        path: ends in .tif.
        size: height and width.
        side: a multiple of 16.
        read: gives (bands, height, width), uint8.
        reference: where the pixels are.
        content: what they are.

    Raises:
        UserError: the file cannot be written.
    """
    rasterio = import_extra("rasterio", "geo")
    with atomic_write(path) as temporary, gdal(_CACHE), warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        try:
            with rasterio.open(temporary, "w", **_profile(size, side, reference, content)) as file:
                _describe(file, reference, content)
                for block in blocks(size, side):
                    file.write(read(block), window=_window(block))
            with rasterio.open(temporary, "r+") as file:
                mean = content.colors is None
                resampling = rasterio.enums.Resampling.average if mean else _mode(rasterio)
                file.build_overviews(_factors(size), resampling)
            _compare(rasterio, temporary, size, side, read)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # GDAL raises errors of many kinds
            raise OSError(str(error.__cause__ or error)) from error


def _mode(rasterio: Any) -> Any:
    return rasterio.enums.Resampling.mode


def _profile(size: Size, side: int, reference: GeoReference, content: Content) -> dict[str, Any]:
    tile = math.gcd(side, _TILE)
    return {
        "driver": "GTiff",
        "height": size[0],
        "width": size[1],
        "count": len(content.bands),
        "dtype": "uint8",
        "nodata": content.nodata,
        "crs": reference.crs,
        "transform": reference.transform,
        "tiled": True,
        "blockxsize": tile,
        "blockysize": tile,
        "interleave": "band",
        "compress": "deflate",
        "bigtiff": "if_safer",
        "sparse_ok": True,  # tiles without data take no space
        "photometric": "minisblack" if content.colors is None else "palette",
    }


def _describe(file: Any, reference: GeoReference, content: Content) -> None:
    points, crs = reference.gcps
    if points:
        file.gcps = points, crs
    if reference.rpcs:
        file.rpcs = reference.rpcs
    tags = dict(content.tags)
    if reference.area_or_point:
        tags["AREA_OR_POINT"] = reference.area_or_point
    file.update_tags(**tags)
    for index, name in enumerate(content.bands, 1):
        if name:
            file.set_band_description(index, name)
    if content.scale != 1:
        file.scales = (content.scale,) * len(content.bands)
    if content.colors is not None:
        file.write_colormap(1, {k: (*color, 255) for k, color in enumerate(content.colors)})


def _factors(size: Size) -> list[int]:
    """The factors of the overviews.

    >>> _factors((1000, 3000)), _factors((100, 100))
    ([2, 4, 8, 16], [])
    """
    count = max(0, math.ceil(math.log2(max(size) / _SMALLEST)))
    return [2**k for k in range(1, count + 1)]


def _compare(
    rasterio: Any, path: Path, size: Size, side: int, read: Callable[[Block], NDArray[np.uint8]]
) -> None:
    with rasterio.open(path) as file:
        for block in blocks(size, side):
            if not np.array_equal(file.read(window=_window(block)), read(block)):
                raise OSError("its pixels could not be written")


def _window(block: Block) -> Any:
    return import_extra("rasterio.windows", "geo").Window.from_slices(*block)
