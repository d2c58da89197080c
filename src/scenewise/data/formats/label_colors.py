"""What the colours in masks mean."""

from collections.abc import Sequence

from scenewise.classes import Classes, Color, distinct_colors
from scenewise.data.class_lists import ClassList
from scenewise.data.formats.label_option import IGNORE, LabelOption
from scenewise.data.formats.label_reading import OFF, Meaning, Reading, as_stored, reading_of
from scenewise.data.formats.label_refusals import MANY, listed_values, several_readings
from scenewise.data.formats.stored_values import Inventory, color_code
from scenewise.errors import UserError

BACKGROUND = {"background", "bg", "back", "_background_", "__background__"}


def classes_named(found: ClassList, names: Sequence[str]) -> Classes:
    """Classes of these names, in the list's colours where it has them."""
    if found.colors is None:
        return Classes(tuple(names), distinct_colors(len(names)))
    of_list = dict(zip(found.names, found.colors, strict=True))
    free = (color for color in ((0, 0, 0), *distinct_colors(256)) if color not in found.colors)
    return Classes(tuple(names), tuple(of_list.get(name) or next(free) for name in names))


def read_palette(found: ClassList, stored: Inventory) -> Reading | None:
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
        return as_stored(found.classes(), stored, found.source)
    if len(by_index) < len(by_color):
        if ignore in stored.palette:
            codes.setdefault(color_code(stored.palette[ignore]), IGNORE)
        classes = classes_named(found, found.names)
        return reading_of(classes, codes, stored, found.source, "color")
    raise several_readings(
        stored, "a palette of the classes' colours in another order", by_color, None
    )


def read_colors(found: ClassList | None, stored: Inventory, option: LabelOption) -> Reading:
    """Masks in colours, or indexed and grey ones whose colours the option names."""
    if option.values:
        raise UserError(
            f"labels name values, but the masks are in colours ({listed_values(stored)}); name "
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
        return reading_of(classes, meaning, stored, "--data.labels", "color")
    new = [name for name in names if name not in found.names]
    classes = classes_named(found, (*new, *found.names) if of_list else names)
    return reading_of(classes, meaning, stored, found.source, "color")


def _with_black(meaning: Meaning, stored: Inventory) -> Meaning:
    """The same with black as background of a single class; refuses other black that is no class."""
    counts, total = stored.counts, sum(stored.counts.values())
    off = sum(pixels for code, pixels in counts.items() if code not in meaning)
    black = 0 if 0 in meaning else counts.get(0, 0)
    if off <= OFF * total or off - black > OFF * total:
        return meaning
    if len(meaning) > 1:
        why = "black, which is the colour of no class"
        raise several_readings(stored, why, {0: IGNORE} | meaning, {0: "background"} | meaning)
    return {0: "background"} | meaning


def _each_color(stored: Inventory) -> Reading:
    """No class list: every colour is a class, called by its code."""
    if len(stored.counts) > MANY:
        raise UserError(
            f"the masks hold {len(stored.counts)} or more colours ({listed_values(stored)}), as "
            "photographs, JPEG copies and resized masks do; export masks whose pixels have the "
            "colours of the classes, or list the classes with their colours in classes.json"
        )
    codes = sorted(stored.counts)
    colors = tuple((code >> 16, code >> 8 & 255, code & 255) for code in codes)
    meaning = {code: f"#{code:06x}" for code in codes}
    classes = Classes(tuple(meaning.values()), colors)
    return reading_of(classes, meaning, stored, "the colours in the masks", "color")


def _colors_without_names(found: ClassList, stored: Inventory) -> Reading:
    """The class list gives no colours; background and one class are black and the other colour."""
    total, names = sum(stored.counts.values()), found.names
    often = [code for code, pixels in stored.counts.most_common() if pixels > OFF * total]
    first = names[0].lower() if len(names) == 2 else "background"
    if len(names) <= 2 and 0 in often and len(often) == 2 and first in BACKGROUND:
        other = next(code for code in often if code)
        meaning = {0: ("background", *names)[-2], other: names[-1]}
        classes = classes_named(found, list(meaning.values()))
        return reading_of(classes, meaning, stored, found.source, "color")
    flag = ",".join(f"#{code:06x}=NAME" for code in often[:8])
    raise UserError(
        f"the masks are in colours ({listed_values(stored)}), and '{found.source}' gives no "
        f'colours of its classes ({", ".join(names[:8])}); add "colors" to it, or give '
        f"--data.labels {flag}"
    )
