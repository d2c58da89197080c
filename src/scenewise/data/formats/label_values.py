"""What the values in masks mean: ``decide`` turns a class list and the stored values into classes.

Nothing is guessed. Where a class list and the values that occur allow two readings, both are named
with the option that chooses one.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from scenewise.classes import Classes, distinct_colors
from scenewise.data.class_lists import ClassList
from scenewise.data.formats.label_colors import (
    BACKGROUND,
    classes_named,
    read_colors,
    read_palette,
)
from scenewise.data.formats.label_option import IGNORE, LabelOption, parse_labels
from scenewise.data.formats.label_reading import Meaning, Reading, as_stored, reading_of
from scenewise.data.formats.label_refusals import MANY, refuse_images, several_readings
from scenewise.data.formats.stored_values import Inventory
from scenewise.errors import UserError

_STEP = 16  # grey levels closer than this are ids
_VOID = {"void", "ignore", "ignored", "unlabeled", "unlabelled", "unknown", "none"} | BACKGROUND
NUMBERS = "the ids in the masks, because there is no class list"


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
        return as_stored(_classes_of(found, stored), stored, found.source if found else NUMBERS)
    if option.colors or stored.color:
        return read_colors(found, stored, option)
    if found is None:
        return _without_list(stored, option)
    if option.values:
        return _given(found, stored, option.values)
    return read_palette(found, stored) or _by_value(found, stored)


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
    refuse_images(stored, found.names)
    return as_stored(found.classes(), stored, found.source)  # each mask reports what is wrong


def _one_level_more(found: ClassList, stored: Inventory, levels: list[int]) -> UserError:
    after = dict(zip(levels[1:], found.names, strict=True))
    readings: list[Meaning] = [{0: IGNORE} | after]
    if found.names[0].lower() not in _VOID:
        readings.append({0: "background"} | after)
    readings.append(dict(zip(levels, (*found.names, IGNORE), strict=True)))
    return several_readings(
        stored, f"{len(levels)} grey values for {len(found.names)} classes", *readings
    )


def _inside(found: ClassList, stored: Inventory) -> Reading:
    """Every value is a class id or ignored; ids from 1 may still be meant."""
    values, first = stored.values, found.names[0].lower()
    shifted = dict(enumerate(found.names, 1))
    if found.ignore == 0 and first not in _VOID:
        raise several_readings(
            stored,
            f"ignore_index is 0, which is also the id of '{found.names[0]}'",
            {0: IGNORE} | shifted,
            None,
        )
    if first in BACKGROUND and 0 not in values and values - {255}:
        raise several_readings(
            stored, f"no mask holds 0, the id of '{found.names[0]}'", shifted, None
        )
    return as_stored(found.classes(), stored, found.source)


def _one_more(found: ClassList, stored: Inventory) -> Reading:
    """The value ``count`` occurs, one past the last class id."""
    names, count = found.names, len(found.names)
    shifted = dict(enumerate(names, 1))
    if found.ignore == 0:
        return _inferred(found, stored, {0: IGNORE} | shifted)
    if 0 not in stored.values:
        known = names[0].lower() in BACKGROUND
        return _inferred(found, stored, ({0: IGNORE} if known else {}) | shifted)
    readings: list[Meaning] = [{0: IGNORE} | shifted]
    if names[0].lower() not in _VOID:
        readings.append({0: "background"} | shifted)
    readings.append(dict(enumerate(names)) | {count: IGNORE})
    why = f"the values 0 to {count}, one more than the {count} classes"
    raise several_readings(stored, why, *readings)


def _listed(found: ClassList, stored: Inventory) -> Reading:
    """The class list gives the value of each class."""
    assert found.values is not None
    meaning: Meaning = dict(zip(found.values, found.names, strict=True))
    if found.ignore is not None:
        meaning[found.ignore] = IGNORE
    extra = stored.values - meaning.keys()
    if 0 in extra:
        if len(found.names) > 1:
            why = "0, which the class list does not name"
            raise several_readings(stored, why, {0: IGNORE} | meaning, {0: "background"} | meaning)
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
    raise several_readings(stored, why, {0: first, white: object_is}, {0: first, white: IGNORE})


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
    classes = classes_named(found, targets if new else list(found.names))
    return reading_of(classes, dict(values), stored, found.source)


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
    return reading_of(reading.classes, meaning | extra, stored, found.source)


def _without_list(stored: Inventory, option: LabelOption) -> Reading:
    """No class list: the values, or the option, name the classes."""
    values = stored.values
    if option.values:
        names = tuple(dict.fromkeys(n for n in option.values.values() if n != IGNORE))
        classes = Classes(names, distinct_colors(len(names)))
        return reading_of(classes, dict(option.values), stored, "--data.labels")
    if _is_binary(values) or (stored.boolean and values == {0, 1}):
        meaning = {0: "background", max(values): "object"}
        return reading_of(_binary_classes(), meaning, stored, "masks of two values")
    refuse_images(stored, ())
    if max(values - {255}, default=0) > max(MANY, 2 * len(values)):
        meaning = {value: f"value_{value}" for value in sorted(values) if value != 255}
        classes = Classes(tuple(meaning.values()), distinct_colors(len(meaning)))
        return reading_of(classes, meaning | {255: IGNORE}, stored, "the values in the masks")
    return as_stored(_classes_of(None, stored), stored, NUMBERS)


def _binary_classes() -> Classes:
    return Classes(("background", "object"), ((0, 0, 0), distinct_colors(1)[0]))
