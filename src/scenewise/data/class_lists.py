"""Class lists: names, colours and stored values of classes, in the files that tools write.

``read_class_list`` reads one file of any known kind, ``find_class_list`` the one of a dataset.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

from scenewise.classes import Classes, Color, distinct_colors
from scenewise.errors import UserError
from scenewise.files import parse_json

if TYPE_CHECKING:
    from scenewise.data.formats.listing import Listing

# Files that name classes, the first that exists is read; tools write them in root or each split.
_FILES = (
    *("classes.json", "data.yaml", "data.yml", "dataset.yaml", "_classes.csv", "labelmap.txt"),
    *("labels.txt", "class_names.txt", "classes.txt", "dataset_meta.json", "meta.json"),
    *("mapping.json", "id2label.json", "labels.json", "label_classes.json"),
)
_LISTS = ("names", "classes", "labels", "categories", "id2label", "label_map", "class_names")
_NAME = ("name", "title", "label", "class_name", "class")
_ID = ("id", "value", "png_index", "index", "class_id", "label_id", "pixel_value")
_COLOR = ("color", "colour", "color_rgb", "rgb", "hex")
_EXAMPLE = '{"names": ["road", "sky"], "colors": [[128, 64, 128], [70, 130, 180]]}'


@dataclass(frozen=True)
class ClassList:
    """What a file says about the classes.

    Attributes:
        names: of the classes, in the order of their ids.
        colors: one for each name, or None.
        values: the value that masks store for each class; None if they count 0, 1, 2, ...
        ignore: the stored value to ignore, if the file says so.
        labels: a mapping of stored values to names, which overrides all others; see
            :mod:`scenewise.data.formats.label_option`.
        source: the file.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...] | None = None
    values: tuple[int, ...] | None = None
    ignore: int | None = None
    labels: Mapping[str, str] | None = None
    source: str = ""

    def classes(self) -> Classes:
        """The classes of masks that store their ids, with distinct colours if there are none."""
        ignore = 255 if self.ignore is None else self.ignore
        colors = distinct_colors(len(self.names)) if self.colors is None else self.colors
        return Classes(self.names, colors, ignore)


def find_class_list(listing: "Listing") -> ClassList | None:
    """The class list of a dataset, or None.

    A file in the root, else files of one name in folders below, which must agree.

    Raises:
        UserError: a file is invalid, or two files differ.
    """
    for name in _FILES:
        paths = [name] if listing.has(name) else _below(listing, name)
        lists = [read_class_list(listing.root / path) for path in paths]
        for other in lists[1:]:
            if replace(other, source="") != replace(lists[0], source=""):
                raise UserError(
                    f"'{lists[0].source}' and '{other.source}' list different classes; remove one"
                )
        if lists:
            return replace(lists[0], source=paths[0])
    return None


def _below(listing: "Listing", name: str) -> list[str]:
    """The files ``name`` one folder below the root: ``train/_classes.csv``."""
    return [path for path in listing.paths if PurePosixPath(path).parts[1:] == (name,)]


def read_class_list(path: str | os.PathLike[str]) -> ClassList:
    """The class list in a JSON, YAML, CSV or text file.

    JSON and YAML: a list of names; a list of objects with name, and maybe id and colour; ids to
    names; names to ids or colours; or any of these under a key such as ``names``, ``classes`` or
    ``id2label``, next to ``colors``, ``ignore_index`` (null or below 0 for none) and ``labels``.
    Text: a name on each line, ``ID name``, or ``name:r,g,b::`` as CVAT writes. CSV: value, name.

    Raises:
        UserError: the file is missing, none of these, lists no class, or lists one twice.
    """
    file = Path(path)
    try:
        content = file.read_bytes()
        if file.suffix.lower() == ".csv":
            found = _from_rows(line.split(",") for line in _lines(content)[1:])
        elif file.suffix.lower() == ".txt":
            found = _from_lines(_lines(content))
        else:
            found = _from_value(_parse(file, content))
        _check(found)
        in_order = found.values == tuple(range(len(found.names)))
        if in_order or file.name == "meta.json":  # Supervisely's ids are those of its database
            found = replace(found, values=None)
    except FileNotFoundError as error:
        raise UserError(f"class list '{path}' not found; check the path") from error
    except (OSError, ValueError, yaml.YAMLError, UserError) as error:
        raise UserError(
            f"cannot use class list '{path}' ({error}); write it like {_EXAMPLE}"
        ) from error
    return replace(found, source=os.fspath(path))


def read_classes(path: str | os.PathLike[str]) -> Classes:
    """The classes in a file as masks of class ids use them; see :func:`read_class_list`.

    Raises:
        UserError: as :func:`read_class_list`.
    """
    found = read_class_list(path)
    if found.values is not None:
        raise UserError(
            f"cannot use class list '{path}': its ids must count 0, 1, 2, ...; correct it"
        )
    return found.classes()


def _parse(file: Path, content: bytes) -> Any:
    if file.suffix.lower() in (".yaml", ".yml"):
        return yaml.safe_load(content.decode("utf-8-sig"))
    return parse_json(content)


def _lines(content: bytes) -> list[str]:
    text = content.decode("utf-8-sig")
    return [line.strip() for line in text.splitlines() if line.strip() and line.strip()[0] != "#"]


def _from_value(value: Any) -> ClassList:
    """A class list from JSON or YAML values."""
    if isinstance(value, list):
        return _from_list(value)
    if not isinstance(value, dict) or not value:
        raise ValueError("it must be a list or an object with the names")
    key = next((key for key in _LISTS if isinstance(value.get(key), list | dict)), None)
    if key is None:
        if any(name in value for name in ("colors", "ignore_index")):
            raise ValueError("'names' is missing")
        return _from_mapping(value)
    inner = _from_value(value[key])
    colors = value.get("colors", value.get("segmentation_colors"))
    if colors is not None:
        inner = replace(inner, colors=_colors(colors))
    labels = value.get("labels")  # in classes.json a mapping from stored values to names
    if isinstance(labels, dict) and key != "labels":
        inner = replace(inner, labels={str(k): _name(v) for k, v in labels.items()})
    return replace(inner, ignore=_ignored(value.get("ignore_index")))


def _from_list(entries: list[Any]) -> ClassList:
    if not all(isinstance(entry, dict) for entry in entries):
        return ClassList(tuple(_name(entry) for entry in entries))
    rows = [(_first(e, _NAME), _first(e, _ID), _first(e, _COLOR)) for e in entries]
    if any(name is None for name, _, _ in rows):
        raise ValueError(f"an entry has none of {', '.join(_NAME)}")
    ids = [row[1] for row in rows]
    if None not in ids:
        if not all(isinstance(k, int) and 0 <= k < 2**16 for k in ids):
            ids = [None] * len(rows)  # ids of a tool's database are not stored in masks
        else:
            rows = sorted(rows, key=lambda row: int(row[1]))
    colors = [row[2] for row in rows]
    return ClassList(
        tuple(_name(row[0]) for row in rows),
        None if None in colors else _colors(colors),
        None if None in ids else tuple(sorted(ids)),
    )


def _from_mapping(value: dict[Any, Any]) -> ClassList:
    """A class list from ids to names, or names to ids or colours."""
    entries = list(value.items())
    if all(re.fullmatch(r"\d+", str(key)) for key in value):  # id -> name, or -> {name, color}
        entries.sort(key=lambda entry: int(entry[0]))
        ids = tuple(int(key) for key, _ in entries)
        items = [item for _, item in entries]
        if all(isinstance(item, dict) for item in items):
            return replace(
                _from_list([item | {"id": k} for k, item in zip(ids, items, strict=True)])
            )
        return ClassList(tuple(map(_name, items)), values=ids)
    if all(isinstance(item, int) and not isinstance(item, bool) for _, item in entries):
        entries.sort(key=lambda entry: int(entry[1]))  # name -> id
        return ClassList(tuple(_name(k) for k, _ in entries), values=tuple(v for _, v in entries))
    if all(_is_hex(key) for key in value):  # colour -> name
        return ClassList(tuple(_name(v) for v in value.values()), _colors(list(value)))
    if all(isinstance(item, list) or _is_hex(item) for item in value.values()):  # name -> colour
        return ClassList(tuple(map(_name, value)), _colors(list(value.values())))
    raise ValueError("'names' is missing")


def _from_lines(lines: list[str]) -> ClassList:
    """A class list from lines: names, ``ID name``, or CVAT's ``name:r,g,b:parts:actions``."""
    cvat = [re.fullmatch(r"([^:]+):(\d+),\s*(\d+),\s*(\d+)(:.*)?", line) for line in lines]
    if lines and all(cvat):
        rows = [match.groups() for match in cvat if match]
        return ClassList(
            tuple(row[0].strip() for row in rows),
            tuple((int(row[1]), int(row[2]), int(row[3])) for row in rows),
        )
    numbered = [re.fullmatch(r"(\d+)\s*[:,;\s]\s*(\S.*)", line) for line in lines]
    if lines and all(numbered):
        return _from_rows(match.groups() for match in numbered if match)
    return ClassList(tuple(line for line in lines if line != "__ignore__"))  # labelme's id -1


def _from_rows(rows: Iterable[Sequence[str]]) -> ClassList:
    """A class list from rows of a stored value and a name."""
    pairs = []
    for row in rows:
        if len(row) < 2 or not re.fullmatch(r"\s*\d+\s*", row[0]):
            raise ValueError(f"the row '{','.join(row)}' is not a pixel value and a name")
        pairs.append((int(row[0]), row[1].strip()))
    pairs.sort()
    return ClassList(tuple(name for _, name in pairs), values=tuple(value for value, _ in pairs))


def parse_color(value: Any) -> Color:
    """A colour from ``"#ff8000"``, ``"ff8000"``, ``"#f80"``, ``"r,g,b"`` or ``[r, g, b]``.

    Raises:
        ValueError: it is none of these.

    >>> parse_color("#ff8000"), parse_color([255, 128, 0]), parse_color("#ff8000ff")
    ((255, 128, 0), (255, 128, 0), (255, 128, 0))
    """
    if isinstance(value, str) and _is_hex(value):
        digits = value.lstrip("#")
        if len(digits) == 3:
            digits = "".join(2 * digit for digit in digits)
        return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:6], 16)
    if isinstance(value, str) and re.fullmatch(r"\(?\s*\d+\s*(,\s*\d+\s*){2}\)?", value):
        value = [int(number) for number in re.findall(r"\d+", value)]
    numbers = value[:3] if isinstance(value, list | tuple) and len(value) <= 4 else ()
    if len(numbers) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in numbers):
        return int(numbers[0]), int(numbers[1]), int(numbers[2])  # a fourth is opacity
    raise ValueError(f"{value!r} is not a colour; write '#ff8000' or [255, 128, 0]")


def _is_hex(value: Any) -> bool:
    return isinstance(value, str) and bool(
        re.fullmatch(r"#[0-9a-fA-F]{3}|#?[0-9a-fA-F]{6}|#[0-9a-fA-F]{8}", value)
    )


def _colors(values: Any) -> tuple[Color, ...]:
    if not isinstance(values, list):
        raise ValueError("'colors' must be a list, one colour for each name")
    return tuple(parse_color(value) for value in values)


def _first(entry: dict[str, Any], keys: Sequence[str]) -> Any:
    return next((entry[key] for key in keys if entry.get(key) is not None), None)


def _name(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{value!r} is not a name")
    return str(value)


def _ignored(value: Any) -> int | None:
    """The stored value to ignore; None for null and for -1, -100, which no mask can hold."""
    if value is None or (isinstance(value, int) and value < 0):
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value > 255:
        raise ValueError("ignore_index must be null or an integer up to 255")
    return value


def _check(found: ClassList) -> None:
    """Raise a ValueError for no class, a name or value twice, or colours that are too few."""
    if not found.names:
        raise ValueError("it lists no class")
    for what, items in (("name", found.names), ("value", found.values or ())):
        twice = [item for item in items if list(items).count(item) > 1]
        if twice:
            raise ValueError(f"the {what} '{twice[0]}' is listed twice")
    found.classes()  # checks the number of colours
