"""What the values in masks mean: ``decide`` turns a class list and the stored values into classes.

Nothing is guessed. Where a class list and the values that occur allow two readings, both are named
with the option that chooses one.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scenewise.classes import Classes, Color, distinct_colors
from scenewise.data.class_lists import ClassList
from scenewise.data.formats.label_option import IGNORE, LabelOption, parse_labels
from scenewise.data.formats.stored_values import Inventory, color_code, read_stored
from scenewise.data.images import read_mask
from scenewise.errors import UserError

_OFF = 1e-3  # share of a mask's pixels that may have colours of no class; they are ignored
_STEP = 16  # grey levels closer than this are ids
_MANY = 40  # more values or colours are those of an image
BACKGROUND = {"background", "bg", "back", "_background_", "__background__"}
_VOID = {"void", "ignore", "ignored", "unlabeled", "unlabelled", "unknown", "none"} | BACKGROUND
NUMBERS = "the ids in the masks, because there is no class list"
_Meaning = dict[int, str]  # stored value or colour code -> class


@dataclass(frozen=True)
class Reading:
    """How the masks of a dataset are read.

    Attributes:
        classes: the classes, in the order of their ids.
        meaning: class of each stored value, or of each colour code; None if masks hold class ids.
        mode: "ids" and "values" read grey values or indices, "grey" and "color" what is seen.
        source: where the names come from.
        off: share of the sampled pixels whose colour is of no class.
        plain: the sampled masks have one channel.
    """

    classes: Classes
    meaning: Mapping[int, str] | None = None
    mode: str = "ids"
    source: str = ""
    off: float = 0.0
    plain: bool = True
    _table: tuple[tuple[int, int], ...] = field(default=(), repr=False)

    def ids(self, path: Path) -> Tensor:
        """The class ids (H, W), uint8, of the mask in ``path``.

        Raises:
            UserError: it is unreadable, or a value is of no class; lists those with their pixels.
        """
        if self.mode == "ids" and self.plain:
            with suppress(UserError):
                return read_mask(path)  # the fast way
        stored = read_stored(path)
        if self.mode in ("ids", "values") and stored.color:
            raise UserError(
                f"mask '{path}' is in colours, but other masks hold values; export all alike"
            )
        values = stored.values if self.mode in ("ids", "values") else stored.as_colors()
        if self.mode == "grey":
            if (values % 0x010101).any():
                raise UserError(f"mask '{path}' is in colours, but others are grey; export alike")
            values = values // 0x010101
        if self.meaning is None:
            if values.max(initial=0) > 255:
                raise UserError(f"mask '{path}' holds ids up to {values.max()}; use ids 0 to 255")
            return torch.from_numpy(values.astype(np.uint8))
        return self._look_up(values, path)

    def _look_up(self, values: NDArray[np.generic], path: Path) -> Tensor:
        found = _lookup(self._table, 1 << 24 if self.mode == "color" else 1 << 16)[values]  # (H, W)
        unknown = found < 0
        if unknown.any():
            if self.mode != "color" or unknown.mean() > _OFF:
                raise UserError(self._unknown(values[unknown], path))
            found = np.where(unknown, self.classes.ignore_index, found)
        return torch.from_numpy(found.astype(np.uint8))

    def _unknown(self, values: NDArray[np.generic], path: Path) -> str:
        numbers, pixels = np.unique(values, return_counts=True)
        most = np.argsort(-pixels, kind="stable")[:8]
        listed = ", ".join(f"{self._word(int(numbers[i]))} ({pixels[i]} pixels)" for i in most)
        more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
        kind = "colours" if self.mode == "color" else "values"
        return (
            f"mask '{path}' holds {kind} of no class: {listed}{more}; the classes are "
            f"{self.text()}; correct the mask, or give every one with --data.labels"
        )

    def _word(self, value: int) -> str:
        return f"#{value:06x}" if self.mode == "color" else str(value)

    def text(self) -> str:
        """The meaning of the values: ``0 = background, 255 = disc``; empty for class ids."""
        meaning = dict(self.meaning or {})
        words = [f"{self._word(value)} = {name}" for value, name in list(meaning.items())[:12]]
        return ", ".join(words) + (", ..." if len(meaning) > 12 else "")


@cache
def _lookup(table: tuple[tuple[int, int], ...], size: int) -> NDArray[np.int16]:
    """From stored values to class ids; -1 for those of no class. Not pickled for workers."""
    result = np.full(size, -1, np.int16)
    for value, k in table:
        result[value] = k
    return result


def _reading(
    classes: Classes, meaning: _Meaning, stored: Inventory, source: str, mode: str = "values"
) -> Reading:
    """A reading whose classes are named by ``meaning``; ``ignore`` becomes the ignored id."""
    ids = {name: k for k, name in enumerate(classes.names)}
    table = tuple((value, ids.get(name, classes.ignore_index)) for value, name in meaning.items())
    off = 0.0
    if mode == "color" and stored.color:
        total = sum(stored.counts.values())
        off = 1 - sum(stored.counts[value] for value in meaning) / max(1, total)
    if mode == "values" and stored.seen:
        mode = "grey"
    return Reading(classes, meaning, mode, source, off, stored.plain, table)


def _as_stored(classes: Classes, stored: Inventory, source: str) -> Reading:
    mode = "grey" if stored.seen else "ids"
    return Reading(classes, None, mode, source, plain=stored.plain)


def decide(found: ClassList | None, stored: Inventory, option: LabelOption) -> Reading:
    """How to read masks that hold ``stored`` with the classes ``found``.

    Args:
        found: the class list, if there is one.
        stored: what the masks hold: of all masks if there is no class list.
        option: what the user says; its names are not used here.

    Raises:
        UserError: two readings are possible, or the values are not labels.
    """
    option = _with_labels_of(found, option)
    if option.stored:
        return _as_stored(_classes_of(found, stored), stored, found.source if found else NUMBERS)
    if option.colors or stored.color:
        return _by_color(found, stored, option)
    if found is None:
        return _without_list(stored, option)
    if option.values:
        return _given(found, stored, option.values)
    by_palette = _by_palette(found, stored)
    return by_palette or _by_value(found, stored)


def _with_labels_of(found: ClassList | None, option: LabelOption) -> LabelOption:
    """The option, else the mapping in the class list."""
    given = option.values or option.colors or option.stored
    if given or found is None or found.labels is None:
        return option
    return parse_labels(found.labels)


def _classes_of(found: ClassList | None, stored: Inventory) -> Classes:
    if found is not None:
        return found.classes()
    largest = max(stored.values - {255}, default=-1)
    if largest < 1 or largest > 255:
        raise UserError(
            f"the masks use {largest + 1} class ids besides 255, which is ignored; give each class "
            "its own id from 0 up, or say what each value is with --data.labels 0=NAME,1=NAME"
        )
    return Classes.numbered(largest + 1)


# Grey values and indices


def _by_value(found: ClassList, stored: Inventory) -> Reading:
    values, count = stored.values, len(found.names)
    if found.values is not None:
        return _listed(found, stored)
    ignored = {255} if found.ignore is None else {found.ignore}
    if _is_binary(values) and max(values) >= count:
        return _binary(found, stored)
    if values <= set(range(count)) | ignored and not count == 1 < len(values):
        return _inside(found, stored)
    rest = values - {0} - ignored
    if count == 1 and 0 in values and found.ignore != 0 and len(rest) == 1:
        value = max(rest)
        if value == 1 or value >= _STEP:
            return _inferred(found, stored, {0: "background", value: found.names[0]})
    if values <= set(range(count + 1)) | ignored and count in values:
        return _one_more(found, stored)
    levels = _grey_levels(values) if found.ignore not in values else []
    if len(levels) == count:
        return _inferred(found, stored, dict(zip(levels, found.names, strict=True)))
    if len(levels) == count + 1 and levels[0] == 0:
        raise _one_level_more(found, stored, levels)
    _refuse_images(stored, found.names)
    return _as_stored(found.classes(), stored, found.source)  # each mask reports what is wrong


def _one_level_more(found: ClassList, stored: Inventory, levels: list[int]) -> UserError:
    after = dict(zip(levels[1:], found.names, strict=True))
    readings: list[_Meaning] = [{0: IGNORE} | after]
    if found.names[0].lower() not in _VOID:
        readings.append({0: "background"} | after)
    readings.append(dict(zip(levels, (*found.names, IGNORE), strict=True)))
    return _two(stored, f"{len(levels)} grey values for {len(found.names)} classes", *readings)


def _inside(found: ClassList, stored: Inventory) -> Reading:
    """Every value is a class id or ignored; ids from 1 may still be meant."""
    values, first = stored.values, found.names[0].lower()
    shifted = dict(enumerate(found.names, 1))
    if found.ignore == 0 and first not in _VOID:
        raise _two(
            stored,
            f"ignore_index is 0, which is also the id of '{found.names[0]}'",
            {0: IGNORE} | shifted,
            None,
        )
    if first in BACKGROUND and 0 not in values and values - {255}:
        raise _two(stored, f"no mask holds 0, the id of '{found.names[0]}'", shifted, None)
    return _as_stored(found.classes(), stored, found.source)


def _one_more(found: ClassList, stored: Inventory) -> Reading:
    """The value ``count`` occurs, one past the last class id."""
    names, count = found.names, len(found.names)
    shifted = dict(enumerate(names, 1))
    if found.ignore == 0:
        return _inferred(found, stored, {0: IGNORE} | shifted)
    if 0 not in stored.values:
        known = names[0].lower() in BACKGROUND
        return _inferred(found, stored, ({0: IGNORE} if known else {}) | shifted)
    readings: list[_Meaning] = [{0: IGNORE} | shifted]
    if names[0].lower() not in _VOID:
        readings.append({0: "background"} | shifted)
    readings.append(dict(enumerate(names)) | {count: IGNORE})
    why = f"the values 0 to {count}, one more than the {count} classes"
    raise _two(stored, why, *readings)


def _listed(found: ClassList, stored: Inventory) -> Reading:
    """The class list gives the value of each class."""
    assert found.values is not None
    meaning: _Meaning = dict(zip(found.values, found.names, strict=True))
    if found.ignore is not None:
        meaning[found.ignore] = IGNORE
    extra = stored.values - meaning.keys()
    if 0 in extra:
        if len(found.names) > 1:
            why = "0, which the class list does not name"
            raise _two(stored, why, {0: IGNORE} | meaning, {0: "background"} | meaning)
        if _is_binary(stored.values):
            return _binary(found, stored)
        meaning = {0: "background"} | meaning
    return _inferred(found, stored, meaning)


def _is_binary(values: set[int]) -> bool:
    """Black and white, in 8 or 16 bits."""
    return values in ({0, 255}, {0, 65535})


def _binary(found: ClassList, stored: Inventory) -> Reading:
    """Masks of 0 and 255 (or 65535): background and object, if that is the one reading."""
    white, names = max(stored.values), found.names
    if len(names) <= 2 and found.ignore is None:
        return _given(found, stored, {0: ("background", *names)[-2], white: names[-1]})
    object_is = names[1] if len(names) > 1 else names[0]
    first = names[0] if len(names) > 1 else "background"
    why = f"0 and {white} alone, but there are {len(names)} classes"
    if found.ignore is not None:
        why = f"0 and {white} alone, and ignore_index is {found.ignore}"
    raise _two(stored, why, {0: first, white: object_is}, {0: first, white: IGNORE})


def _grey_levels(values: set[int]) -> list[int]:
    """Values that are evenly spaced from 0 or from one step, in order; empty if they are not."""
    levels = sorted(values)
    steps = len(levels) - (levels[0] == 0)
    if len(levels) < 2 or levels[-1] < _STEP * steps:
        return []
    first = 0 if levels[0] == 0 else 1
    ideal = [levels[-1] * (k + first) / steps for k in range(len(levels))]
    return levels if all(abs(a - b) <= 1 for a, b in zip(levels, ideal, strict=True)) else []


def _given(found: ClassList, stored: Inventory, values: Mapping[int, str]) -> Reading:
    """Values with their classes. If all are in the list it keeps its order, else this is a list."""
    targets = list(dict.fromkeys(name for name in values.values() if name != IGNORE))
    new = [name for name in targets if name not in found.names]
    if len(new) == len(targets) and all(name == IGNORE for k, name in values.items() if k):
        return _partly_given(found, stored, values)
    classes = _classes_named(found, targets if new else list(found.names))
    return _reading(classes, dict(values), stored, found.source)


def _inferred(found: ClassList, stored: Inventory, values: Mapping[int, str]) -> Reading:
    """As :func:`_given`, for values that the rules here name: 255 is ignored as everywhere."""
    ignored = {255 if found.ignore is None else found.ignore: IGNORE}
    return _given(found, stored, ignored | dict(values))


def _partly_given(found: ClassList, stored: Inventory, given: Mapping[int, str]) -> Reading:
    """Values to ignore, or 0 as a new class; the class list names the others in order."""
    if given.get(0, IGNORE) != IGNORE:
        all_values = dict(enumerate(found.names, 1)) | dict(given)
        return _given(found, stored, dict(sorted(all_values.items())))  # 0 first
    others = Counter({v: n for v, n in stored.counts.items() if v == 0 or v not in given})
    ignore = 0 if 0 in given else found.ignore
    reading = _by_value(replace(found, ignore=ignore), replace(stored, counts=others))
    ids = {reading.classes.ignore_index: IGNORE} | dict(enumerate(found.names))
    meaning = dict(ids if reading.meaning is None else reading.meaning)
    extra = {k: IGNORE for k in given if k or 0 not in meaning}
    return _reading(reading.classes, meaning | extra, stored, found.source)


def _classes_named(found: ClassList, names: Sequence[str]) -> Classes:
    """Classes of these names, in the list's colours where it has them."""
    if found.colors is None:
        return Classes(tuple(names), distinct_colors(len(names)))
    of_list = dict(zip(found.names, found.colors, strict=True))
    free = (color for color in ((0, 0, 0), *distinct_colors(256)) if color not in found.colors)
    return Classes(tuple(names), tuple(of_list.get(name) or next(free) for name in names))


def _without_list(stored: Inventory, option: LabelOption) -> Reading:
    """No class list: the values, or the option, name the classes."""
    values = stored.values
    if option.values:
        names = tuple(dict.fromkeys(n for n in option.values.values() if n != IGNORE))
        classes = Classes(names, distinct_colors(len(names)))
        return _reading(classes, dict(option.values), stored, "--data.labels")
    if _is_binary(values) or (stored.boolean and values == {0, 1}):
        meaning = {0: "background", max(values): "object"}
        return _reading(_binary_classes(), meaning, stored, "masks of two values")
    _refuse_images(stored, ())
    if max(values - {255}, default=0) > max(_MANY, 2 * len(values)):
        meaning = {value: f"value_{value}" for value in sorted(values) if value != 255}
        classes = Classes(tuple(meaning.values()), distinct_colors(len(meaning)))
        return _reading(classes, meaning | {255: IGNORE}, stored, "the values in the masks")
    return _as_stored(_classes_of(None, stored), stored, NUMBERS)


def _binary_classes() -> Classes:
    return Classes(("background", "object"), ((0, 0, 0), distinct_colors(1)[0]))


# Colours


def _by_palette(found: ClassList, stored: Inventory) -> Reading | None:
    """Indexed masks whose palette has the colours of the class list; None to read the indices."""
    if found.colors is None or stored.palette is None or found.values is not None:
        return None
    ignore = 255 if found.ignore is None else found.ignore
    used = {k: color for k, color in stored.palette.items() if k != ignore}
    codes = {color_code(color): name for color, name in zip(found.colors, found.names, strict=True)}
    if not all(color_code(color) in codes for color in used.values()) or len(codes) < len(
        found.names
    ):
        return None
    by_color = {k: codes[color_code(color)] for k, color in used.items()}
    by_index = {k: found.names[k] for k in used if k < len(found.names)}
    if by_color == by_index:
        return _as_stored(found.classes(), stored, found.source)
    if len(by_index) < len(by_color):
        if ignore in stored.palette:
            codes.setdefault(color_code(stored.palette[ignore]), IGNORE)
        classes = _classes_named(found, found.names)
        return _reading(classes, codes, stored, found.source, "color")
    raise _two(stored, "a palette of the classes' colours in another order", by_color, None)


def _by_color(found: ClassList | None, stored: Inventory, option: LabelOption) -> Reading:
    """Masks in colours, or indexed and grey ones whose colours the option names."""
    if option.values:
        raise UserError(
            f"labels name values, but the masks are in colours ({_listed_values(stored)}); name "
            "the colours, like #ff0000=roof"
        )
    if found is None and not option.colors:
        return _each_color(stored)
    of_list: dict[Color, str] = {}
    if found is not None and found.colors is not None:
        pairs = reversed([*zip(found.colors, found.names, strict=True)])  # the first class wins
        of_list = dict(pairs)
    elif found is not None and not option.colors:
        return _colors_without_names(found, stored)
    meaning = {color_code(color): name for color, name in (of_list | dict(option.colors)).items()}
    if stored.color and not option.colors:
        meaning = _with_black(meaning, stored)
    names = [name for name in dict.fromkeys(meaning.values()) if name != IGNORE]
    if found is None:
        color_of = {name: color for color, name in reversed([*option.colors.items()])}
        classes = Classes(tuple(names), tuple(color_of[name] for name in names))
        return _reading(classes, meaning, stored, "--data.labels", "color")
    new = [name for name in names if name not in found.names]
    classes = _classes_named(found, (*new, *found.names) if of_list else names)
    return _reading(classes, meaning, stored, found.source, "color")


def _with_black(meaning: _Meaning, stored: Inventory) -> _Meaning:
    """The same with black as background of a single class; refuses other black that is no class."""
    counts, total = stored.counts, sum(stored.counts.values())
    off = sum(pixels for code, pixels in counts.items() if code not in meaning)
    black = 0 if 0 in meaning else counts.get(0, 0)
    if off <= _OFF * total or off - black > _OFF * total:
        return meaning
    if len(meaning) > 1:
        why = "black, which is the colour of no class"
        raise _two(stored, why, {0: IGNORE} | meaning, {0: "background"} | meaning)
    return {0: "background"} | meaning


def _each_color(stored: Inventory) -> Reading:
    """No class list: every colour is a class, called by its code."""
    if len(stored.counts) > _MANY:
        raise UserError(
            f"the masks hold {len(stored.counts)} or more colours ({_listed_values(stored)}), as "
            "photographs, JPEG copies and resized masks do; export masks whose pixels have the "
            "colours of the classes, or list the classes with their colours in classes.json"
        )
    codes = sorted(stored.counts)
    colors = tuple((code >> 16, code >> 8 & 255, code & 255) for code in codes)
    meaning = {code: f"#{code:06x}" for code in codes}
    classes = Classes(tuple(meaning.values()), colors)
    return _reading(classes, meaning, stored, "the colours in the masks", "color")


def _colors_without_names(found: ClassList, stored: Inventory) -> Reading:
    """The class list gives no colours; background and one class are black and the other colour."""
    total, names = sum(stored.counts.values()), found.names
    often = [code for code, pixels in stored.counts.most_common() if pixels > _OFF * total]
    first = names[0].lower() if len(names) == 2 else "background"
    if len(names) <= 2 and 0 in often and len(often) == 2 and first in BACKGROUND:
        other = next(code for code in often if code)
        meaning = {0: ("background", *names)[-2], other: names[-1]}
        classes = _classes_named(found, list(meaning.values()))
        return _reading(classes, meaning, stored, found.source, "color")
    flag = ",".join(f"#{code:06x}=NAME" for code in often[:8])
    raise UserError(
        f"the masks are in colours ({_listed_values(stored)}), and '{found.source}' gives no "
        f'colours of its classes ({", ".join(names[:8])}); add "colors" to it, or give '
        f"--data.labels {flag}"
    )


# Refusals


def _two(stored: Inventory, why: str, *meanings: _Meaning | None) -> UserError:
    """The error for several readings, with an option for each; None is that of class ids."""
    options = []
    for meaning in meanings:
        text = "stored" if meaning is None else _option(meaning, stored)
        options.append(f"--data.labels {text}")
    return UserError(
        f"the masks can be read in {len(options)} ways, because they hold {why}; choose "
        + " or ".join(options)
    )


def _option(meaning: _Meaning, stored: Inventory) -> str:
    """``VALUE=CLASS,...`` as the option takes it."""
    word = "#{:06x}" if stored.color else "{}"
    text = ",".join(f"{word.format(value)}={name}" for value, name in meaning.items())
    return f"'{text}'" if set(text) & set(" #'()&;") else text


def _refuse_images(stored: Inventory, names: Sequence[str]) -> None:
    """Raise a UserError for grey levels of an image, and for blurred edges of 0 and 255."""
    values = stored.values - {255} - set(range(len(names) + 1))
    if len(values) <= max(6, len(names)):
        return
    total = sum(stored.counts.values())
    ends = stored.counts[0] + stored.counts[255]
    if stored.counts[0] and stored.counts[255] and ends > 0.8 * total and len(names) <= 2:
        first, second = ("background", *names)[-2:] if names else ("background", "object")
        raise UserError(
            f"the masks hold {len(stored.counts)} grey values, {ends / total:.1%} of the pixels 0 "
            "or 255: their edges are blurred; export them without smoothing, or divide them in the "
            f"middle with --data.labels 0-127={first},128-255={second}"
        )
    if len(values) > _MANY:
        raise UserError(
            f"the masks hold {len(stored.counts)} grey values, as images do, not class ids; give "
            "the folder of the masks, or export them without smoothing"
        )


def _listed_values(stored: Inventory) -> str:
    total = sum(stored.counts.values())
    word = "#{:06x}" if stored.color else "{}"
    parts = [f"{word.format(v)} {pixels / total:.1%}" for v, pixels in stored.counts.most_common(6)]
    return ", ".join(parts) + (", ..." if len(stored.counts) > 6 else "")
