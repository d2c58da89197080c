"""The option ``--data.labels``: which class each stored value, colour or name of a mask is.

``VALUE=CLASS`` pairs with commas between them. A value is a number (``7``), a range (``0-127``), a
colour (``#ff8000``) or the name of a class, which renames or merges it. The class ``ignore`` stands
for pixels that count neither in training nor in scores.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scenewise.classes import Color
from scenewise.data.class_lists import parse_color
from scenewise.errors import UserError
from scenewise.files import parse_json

IGNORE = "ignore"
_RANGE = re.compile(r"(\d+)(?:\s*-\s*(\d+))?")


@dataclass(frozen=True)
class LabelOption:
    """A parsed option: the class of stored values, of colours, and of classes by name.

    Attributes:
        values: stored value -> class.
        colors: colour -> class.
        names: class of the list -> class.
        stored: value k is class k, without any other interpretation.
        file: a class list to use in place of the dataset's own.
    """

    values: Mapping[int, str] = field(default_factory=dict)
    colors: Mapping[Color, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    stored: bool = False
    file: Path | None = None


def parse_labels(option: str | Mapping[str, str] | None) -> LabelOption:
    """The option from text, from the path of a class list, or from a mapping.

    Raises:
        UserError: a part is not VALUE=CLASS, a value occurs twice, or kinds are mixed.

    >>> parse_labels("0=background, 1-3=crop, 255=ignore").values
    {0: 'background', 1: 'crop', 2: 'crop', 3: 'crop', 255: 'ignore'}
    >>> parse_labels({"#ff0000": "roof"}).colors
    {(255, 0, 0): 'roof'}
    """
    if option is None:
        return LabelOption()
    if isinstance(option, str):
        if option == "stored":
            return LabelOption(stored=True)
        if "=" not in option and not option.lstrip().startswith("{"):
            if Path(option).suffix and Path(option).is_file():
                return LabelOption(file=Path(option))
            raise UserError(
                f"labels '{option}' is neither a file nor VALUE=CLASS; write it like 0=road,1=sky, "
                "or 'stored' if the masks hold class ids"
            )
        option = _pairs(option)
    return _parsed(option)


def _pairs(text: str) -> dict[str, str]:
    if text.lstrip().startswith("{"):
        try:
            return {str(key): str(value) for key, value in parse_json(text.encode()).items()}
        except ValueError as error:
            raise UserError(f"labels '{text}' is not valid JSON ({error}); correct it") from error
    pairs: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, name = (word.strip() for word in part.partition("="))
        if not equals or not key or not name:
            raise UserError(f"'{part}' in labels is not VALUE=CLASS; write it like 0=road,1=sky")
        if key in pairs:
            raise UserError(f"labels give '{key}' twice; keep one of them")
        pairs[key] = name
    return pairs


def _parsed(pairs: Mapping[str, str]) -> LabelOption:
    values: dict[int, str] = {}
    colors: dict[Color, str] = {}
    names: dict[str, str] = {}
    for key, given in pairs.items():
        name = IGNORE if str(given).lower() == IGNORE else str(given)
        numbers = _RANGE.fullmatch(str(key).strip())
        if numbers:
            first = int(numbers[1])
            last = first if numbers[2] is None else int(numbers[2])
            if not first <= last <= 65535:
                raise UserError(f"'{key}' in labels is not a value up to 65535; correct it")
            for value in range(first, last + 1):
                if value in values:
                    raise UserError(f"labels give {value} twice; keep one of them")
                values[value] = name
        elif str(key).startswith("#") or re.fullmatch(r"\(?\d+\s*,.*", str(key)):
            try:
                colors[parse_color(str(key))] = name
            except ValueError as error:
                raise UserError(f"{error} (in labels)") from error
        else:
            names[str(key)] = name
    if bool(values) + bool(colors) + bool(names) != 1:
        raise UserError("labels must be all numbers, all colours, or all names; correct them")
    return LabelOption(values, colors, names)
