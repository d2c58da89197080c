"""Masks as they are stored: grey values, indices or colours, before they become class ids."""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from scenewise.classes import Color
from scenewise.data.images import open_file, refuse_ambiguous_ids
from scenewise.errors import UserError

_MOST = 4096  # different values of one mask that are counted


@dataclass(frozen=True)
class Stored:
    """One mask as stored.

    Attributes:
        values: (H, W) integers: grey values or indices; colours as ``red << 16 | green << 8 |
            blue`` if ``color``.
        color: whether these are colours.
        palette: colours of the indices of an indexed image.
        boolean: the file has one bit a pixel.
        single: the file has one channel.
    """

    values: NDArray[Any]
    color: bool = False
    palette: tuple[Color, ...] | None = None
    boolean: bool = False
    single: bool = True

    def as_colors(self) -> NDArray[np.int32]:
        """(H, W) colour codes, also of a grey or indexed mask."""
        if self.color:
            return self.values.astype(np.int32)
        if self.palette is not None:
            codes = np.array([color_code(color) for color in self.palette], np.int32)
            colors: NDArray[np.int32] = codes[self.values]  # (H, W)
            return colors
        grey: NDArray[np.int32] = self.values.astype(np.int32) * (255 if self.boolean else 1)
        return grey << 16 | grey << 8 | grey


def color_code(color: Color) -> int:
    """``red << 16 | green << 8 | blue``.

    >>> f"{color_code((255, 128, 0)):06x}"
    'ff8000'
    """
    return color[0] << 16 | color[1] << 8 | color[2]


def read_stored(path: Path) -> Stored:
    """The values in a mask file. Opacity is dropped; equal channels are one grey channel.

    Raises:
        UserError: the file is unreadable, a JPEG, has 2 or 4 bits of grey, or fractions.
    """
    return open_file(path, "mask", lambda image: _stored(image, path))


def _stored(image: Image.Image, path: Path) -> Stored:
    refuse_ambiguous_ids(image, path)
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "P":
        palette = np.array(image.getpalette() or [], np.uint8).reshape(-1, 3)  # (colours, 3)
        indices = np.asarray(image)
        known = [(int(r), int(g), int(b)) for r, g, b in palette]
        known += [(0, 0, 0)] * (int(indices.max(initial=0)) + 1 - len(known))
        return Stored(indices, palette=tuple(known))
    array = np.asarray(image)
    if image.mode == "1":
        return Stored(array.astype(np.uint8), boolean=True)
    if array.ndim == 3 and image.mode in ("LA", "La", "RGB", "RGBA", "RGBX", "RGBa"):
        return _of_channels(array, path)
    if array.ndim != 2 or not (array == np.rint(array)).all():
        raise UserError(f"mask '{path}' holds neither integers nor colours; save it as 8 bits")
    if array.min(initial=0) < 0 or array.max(initial=0) > 65535:
        raise UserError(f"mask '{path}' holds values outside 0 to 65535; save it as 8 bits")
    return Stored(array.astype(np.uint16) if array.dtype != np.uint8 else array)


def _of_channels(array: NDArray[Any], path: Path) -> Stored:
    """Colours, or grey if the channels are equal; (H, W, channels) with opacity last."""
    channels = array[..., :1] if array.shape[2] == 2 else array[..., :3]
    opacity = array[..., -1] if array.shape[2] in (2, 4) else None
    one_color = (channels == channels[:1, :1]).all()
    if one_color and opacity is not None and np.ptp(opacity):
        raise UserError(
            f"mask '{path}' has one colour and differs in its opacity alone; save its opacity as "
            "the mask"
        )
    if (channels == channels[..., :1]).all():
        return Stored(np.ascontiguousarray(channels[..., 0]), single=False)
    wide = channels.astype(np.int32)
    return Stored(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2], color=True, single=False)


@dataclass(frozen=True)
class Inventory:
    """What a number of masks hold together.

    Attributes:
        counts: pixels of each grey value or index, or colour code if ``color``.
        color: some mask is in colours, or indices of two masks have different colours.
        palette: colour of each index that occurs, if all masks are indexed.
        boolean: all masks have one bit a pixel.
        plain: all masks have one channel.
        seen: the values are the grey levels that are seen, because indices of two masks have
            different colours, or files of 1 and of 8 bits are mixed.
    """

    counts: Counter[int]
    color: bool = False
    palette: dict[int, Color] | None = None
    boolean: bool = False
    plain: bool = True
    seen: bool = False

    @property
    def values(self) -> set[int]:
        """The values that occur."""
        return set(self.counts)


def take_inventory(paths: Sequence[Path]) -> Inventory:
    """The values in these masks. Unreadable ones are skipped.

    Raises:
        UserError: none of them is readable.
    """

    def read(path: Path) -> tuple[Inventory, Inventory] | UserError:
        try:
            stored = read_stored(path)
        except UserError as error:
            return error
        return _inventory(stored, False), _inventory(stored, True)

    with ThreadPoolExecutor() as pool:
        results = [*pool.map(read, paths)]
    both = [pair for pair in results if not isinstance(pair, UserError)]
    if not both:
        raise next(error for error in results if isinstance(error, UserError))
    as_stored = _together(pair[0] for pair in both)
    if as_stored is not None:
        return as_stored
    _refuse_mixed(paths, results)
    in_colors = _together(pair[1] for pair in both)
    assert in_colors is not None  # colours always add up
    if any(code % 0x010101 for code in in_colors.counts):
        return in_colors
    grey = Counter({code // 0x010101: n for code, n in in_colors.counts.items()})
    if 1 in grey and any(pair[0].boolean for pair in both):
        raise UserError("some masks have 1 bit a pixel, others hold 1 in 8 bits; export all alike")
    return Inventory(grey, plain=in_colors.plain, seen=True)


def _refuse_mixed(
    paths: Sequence[Path], results: Sequence[tuple[Inventory, Inventory] | UserError]
) -> None:
    """Raise a UserError if some masks are in colours and others hold grey values besides 0."""
    read = [(path, r[0]) for path, r in zip(paths, results, strict=True) if isinstance(r, tuple)]
    color = next((path for path, part in read if part.color), None)
    grey = next(
        (p for p, part in read if part.plain and not part.palette and any(part.counts)), None
    )
    if color is not None and grey is not None:
        raise UserError(f"mask '{color}' is in colours, but '{grey}' is grey; export all alike")


def _inventory(stored: Stored, color: bool) -> Inventory:
    array = stored.as_colors() if color else stored.values
    values, pixels = np.unique(array, return_counts=True)
    most = np.argsort(-pixels, kind="stable")[:_MOST]
    counts = Counter(dict(zip(values[most].tolist(), pixels[most].tolist(), strict=True)))
    palette = None
    if not color and stored.palette is not None:
        palette = {index: stored.palette[index] for index in counts}
    boolean = stored.boolean and not color
    return Inventory(counts, color or stored.color, palette, boolean, stored.single)


def _together(inventories: Iterable[Inventory]) -> Inventory | None:
    """The sum; None if grey and colours, or indices of different colours, do not add up."""
    total: Counter[int] = Counter()
    palette: dict[int, Color] | None = {}
    parts = list(inventories)
    for part in parts:
        total += part.counts
        if palette is not None and part.palette is not None:
            if any(palette.get(index, color) != color for index, color in part.palette.items()):
                return None
            palette |= part.palette
        else:
            palette = None
    colored, boolean = {part.color for part in parts}, {part.boolean for part in parts}
    if len(colored) + len(boolean) > 2:  # of both kinds
        return None
    plain = all(part.plain for part in parts)
    return Inventory(total, colored.pop(), palette, boolean.pop(), plain)
