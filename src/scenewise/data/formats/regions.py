"""Labelled regions drawn as masks: polygons, run lengths, bitmaps, ellipses, brush strokes.

Polygons are drawn by pycocotools, so their pixels are those of COCO's own tools: the outline runs
in continuous coordinates, (0, 0) is the top left corner of the first pixel. Everything that a file
says about sizes is compared with the image before memory is taken for it.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scenewise.errors import import_extra

Size = tuple[int, int]  # (H, W)
Mask = NDArray[np.bool_]
Ring = Sequence[float]  # x, y, x, y, ...
_FAR = 2**20  # pixels: larger coordinates overflow the integers of pycocotools
_LONGEST = 2**22  # pixels of outline, for which pycocotools takes about 200 MB


class Shape(Protocol):
    """The pixels of one region."""

    def mask(self, size: Size) -> Mask:
        """Where the region is in an image of ``size``: (H, W).

        Raises:
            ValueError: the region is broken, or does not fit the image.
        """


Region = tuple[int, Shape]  # class id, pixels


@dataclass(frozen=True)
class Polygon:
    """The union of closed outlines, less the union of others.

    >>> Polygon([[1, 0, 3, 0, 3, 2, 1, 2]]).mask((3, 4)).astype(int).tolist()
    [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """

    rings: Sequence[Ring]
    holes: Sequence[Ring] = ()

    def mask(self, size: Size) -> Mask:
        inside = _fill(self.rings, size)
        return inside & ~_fill(self.holes, size) if self.holes else inside


@dataclass(frozen=True)
class Runs:
    """Run lengths of a box: zeros first, then ones, zeros, ...; by rows, or by columns as in COCO.

    Args:
        counts: the lengths; COCO's compressed text is read too.
        size: of the box, (H, W).
        corner: x and y of the box's top left pixel.
        by_columns: whether the runs go down the columns.
    """

    counts: Sequence[int] | str | bytes
    size: Size
    corner: tuple[int, int] = (0, 0)
    by_columns: bool = True

    def mask(self, size: Size) -> Mask:
        height, width = self.size
        if height > size[0] or width > size[1] or (self.by_columns and self.size != size):
            raise ValueError(f"run lengths of {height} x {width} pixels do not fit the image")
        if self.by_columns:
            box = decode_runs(self.counts, height, width)
        else:
            box = decode_runs(self.counts, width, height).T
        return _placed(box, self.corner, size)


@dataclass(frozen=True)
class Bitmap:
    """A PNG whose opaque (or, without transparency, non-zero) pixels are the region.

    Args:
        png: the file's content.
        corner: x and y of its top left pixel in the image.
    """

    png: bytes
    corner: tuple[int, int] = (0, 0)

    def mask(self, size: Size) -> Mask:
        with Image.open(io.BytesIO(self.png), formats=["PNG"]) as image:
            if image.width > size[1] or image.height > size[0]:
                raise ValueError("a bitmap is larger than its image")
            if "A" in image.getbands() or "transparency" in image.info:
                pixels = np.asarray(image.convert("RGBA"))[..., 3] > 0  # (h, w)
            else:
                pixels = np.asarray(image.convert("L") if image.mode == "RGB" else image) > 0
        return _placed(pixels, self.corner, size)


@dataclass(frozen=True)
class Ellipse:
    """The pixels whose centre is in an ellipse.

    Args:
        center: x and y.
        radii: half the axes.
        degrees: clockwise turn of the first axis.
    """

    center: tuple[float, float]
    radii: tuple[float, float]
    degrees: float = 0.0

    def mask(self, size: Size) -> Mask:
        if min(self.radii) <= 0 or not np.isfinite([*self.center, *self.radii, self.degrees]).all():
            raise ValueError("an ellipse needs positive radii")
        turn = np.deg2rad(self.degrees)
        x = np.arange(size[1]) + 0.5 - self.center[0]  # (W,)
        y = (np.arange(size[0]) + 0.5 - self.center[1])[:, None]  # (H, 1)
        along = (x * np.cos(turn) + y * np.sin(turn)) / self.radii[0]  # (H, W)
        across = (y * np.cos(turn) - x * np.sin(turn)) / self.radii[1]
        inside: Mask = along**2 + across**2 <= 1
        return inside


def rectangle(x: float, y: float, width: float, height: float, degrees: float = 0.0) -> Polygon:
    """A box, turned clockwise about (x, y), its top left corner.

    >>> rectangle(1, 0, 2, 1).mask((2, 4)).astype(int).tolist()
    [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    turn = np.deg2rad(degrees)
    corners = ((0.0, 0.0), (width, 0.0), (width, height), (0.0, height))
    ring: list[float] = []
    for across, down in corners:
        ring.append(float(x + across * np.cos(turn) - down * np.sin(turn)))
        ring.append(float(y + across * np.sin(turn) + down * np.cos(turn)))
    return Polygon([ring])


def paint(regions: Iterable[Region], size: Size, by_area: bool = False) -> NDArray[np.uint8]:
    """Class ids (H, W) of regions drawn in sequence on class 0, later ones on top.

    Args:
        regions: class ids and pixels.
        size: (H, W).
        by_area: draw larger regions first, so that small ones are on top.

    Raises:
        ValueError: a region is broken.
    """
    drawn = [(label, *_cropped(shape.mask(size))) for label, shape in regions]
    if by_area:
        drawn.sort(key=lambda entry: -int(entry[2].sum()))  # stable: equal areas keep their order
    ids = np.zeros(size, np.uint8)
    for label, box, pixels in drawn:
        ids[box][pixels] = label
    return ids


def decode_runs(counts: Sequence[int] | str | bytes, height: int, width: int) -> NDArray[np.bool_]:
    """A mask (H, W) from COCO's run lengths, compressed to text or as a list.

    Runs go down the columns and start with a run of zeros. In text, each length is a sequence of
    characters of 5 bits and a "more" bit, from 48 up; from the third on it is the difference to
    the second last one.

    Raises:
        ValueError: the runs do not fill the mask exactly.

    >>> decode_runs([1, 2, 3], 2, 3).astype(int).tolist()
    [[0, 1, 0], [1, 0, 0]]
    """
    runs = _unpack(counts) if isinstance(counts, str | bytes) else counts
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(f"run lengths do not fill {height} x {width} pixels")
    values = np.arange(len(runs)) % 2 == 1  # runs of zeros and ones alternate
    return np.repeat(values, runs).reshape(width, height).T  # column by column -> (H, W)


def _unpack(text: str | bytes) -> list[int]:
    data = text.encode("ascii") if isinstance(text, str) else text
    runs: list[int] = []
    value = shift = 0
    for byte in data:
        bits = byte - 48
        if not 0 <= bits < 64:
            raise ValueError("run lengths hold an invalid character")
        value |= (bits & 31) << shift  # the lowest 5 bits come first
        shift += 5
        if bits & 32:  # more follow
            continue
        if bits & 16:  # the sign
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


def _fill(rings: Sequence[Ring], size: Size) -> Mask:
    if any(len(ring) % 2 for ring in rings):
        raise ValueError("a polygon has an x without a y")
    outlines = [np.asarray(ring, np.float64) for ring in rings if len(ring) >= 6]
    if not outlines:  # two points have no area
        return np.zeros(size, bool)
    if any(not (abs(ring) <= _FAR).all() for ring in outlines):  # also true for NaN
        raise ValueError("a polygon is far outside its image")
    steps = [ring.reshape(-1, 2) - np.roll(ring.reshape(-1, 2), 1, axis=0) for ring in outlines]
    if sum(abs(step).max(axis=1).sum() for step in steps) > _LONGEST:
        raise ValueError("a polygon's outline is too long")
    coco: Any = import_extra("pycocotools.mask", "labels")
    parts = coco.frPyObjects([ring.tolist() for ring in outlines], *size)
    return decode_runs(coco.merge(parts)["counts"], *size)  # coco.decode warns with NumPy 2


def _placed(pixels: Mask, corner: tuple[int, int], size: Size) -> Mask:
    (left, top), (height, width) = corner, pixels.shape
    if left < 0 or top < 0 or left + width > size[1] or top + height > size[0]:
        raise ValueError("a region reaches out of its image")
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = pixels
    return mask


def _cropped(mask: Mask) -> tuple[tuple[slice, slice], Mask]:
    """The box that holds all of a region, and its pixels there: many masks fit in the memory."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return (slice(0), slice(0)), mask[:0, :0]
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return box, mask[box].copy()
