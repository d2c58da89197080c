"""List files: which images a split has, and maybe the mask of each: ``train.txt``, a CSV."""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from scenewise.data.formats.listing import Listing, split_of
from scenewise.data.missing_files import raise_missing
from scenewise.errors import UserError

_FILLERS = {"list", "split", "set", "files", "file", "images", "ids", "aug", "pairs"}
_IMAGE_COLUMNS = ("image", "image_path", "img", "img_path", "images", "filename", "file_name")
_MASK_COLUMNS = ("mask", "mask_path", "masks", "label", "label_path", "annotation", "seg_map_path")
_SPLIT_COLUMNS = ("split", "set", "subset")
Row = tuple[str, str | None]  # an image, and its mask if the list names it


def read_lists(listing: Listing) -> dict[str, list[Row]]:
    """The rows of all list files by split; ``all`` for a CSV without splits. Empty if none exist.

    Raises:
        UserError: two files list one split differently.
    """
    rows: dict[str, list[Row]] = {}
    source: dict[str, str] = {}
    for path in listing.paths:
        suffix = PurePosixPath(path).suffix.lower()
        if suffix not in (".txt", ".lst", ".csv"):
            continue
        for split, entries in _rows(listing, path, suffix).items():
            if entries and rows.setdefault(split, entries) != entries:
                raise UserError(
                    f"'{source[split]}' and '{path}' both list the images of {split}; remove one"
                )
            source.setdefault(split, path)
    return {split: entries for split, entries in rows.items() if entries}


def _rows(listing: Listing, path: str, suffix: str) -> dict[str, list[Row]]:
    split = _split_of_list(PurePosixPath(path).stem)
    if suffix == ".csv":
        return _csv_rows(listing.text(path), split)
    if split is None:
        return {}
    lines = [line.strip() for line in listing.text(path).splitlines()]
    return {split: [_row(listing, line) for line in lines if line and line[0] != "#"]}


def _split_of_list(stem: str) -> str | None:
    """The split that a list's name gives.

    >>> _split_of_list("train"), _split_of_list("val_list"), _split_of_list("labels")
    ('train', 'val', None)
    """
    words = [w for w in re.split(r"[\W_]+", stem.lower()) if w and w not in _FILLERS]
    return split_of(words[0].removesuffix("list")) if len(words) == 1 else None


def _row(listing: Listing, line: str) -> Row:
    """An image, or an image and its mask with a space, tab or comma between them."""
    if listing.has(line.lstrip("/")):  # a name may hold spaces
        return line, None
    for separator in ("\t", ",", " "):
        first, found, second = line.partition(separator)
        if found and "." in second:  # VOC's lists have 1 and -1 in a second column
            return first.strip(), second.strip()
    return line.split()[0] if len(line.split()) > 1 else line, None


def _csv_rows(text: str, split: str | None) -> dict[str, list[Row]]:
    """The rows of a CSV with columns for image and mask, and maybe the split."""
    reader = csv.DictReader(io.StringIO(text))
    names = {name.strip().lower(): name for name in reader.fieldnames or () if name}
    image = next((names[name] for name in _IMAGE_COLUMNS if name in names), None)
    mask = next((names[name] for name in _MASK_COLUMNS if name in names), None)
    column = next((names[name] for name in _SPLIT_COLUMNS if name in names), None)
    if image is None or mask is None:
        return {}
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in reader:
        if row[image] and row[mask]:
            named = split_of(row[column] or "") if column else None
            rows[named or split or "all"].append((row[image].strip(), row[mask].strip()))
    return dict(rows)


def pairs_of_rows(listing: Listing, rows: Sequence[Row], split: str) -> list[tuple[str, str]]:
    """The image and the mask of rows that name both, as paths below the root.

    Raises:
        UserError: files are not found, or a name fits two.
    """
    find = _Finder(listing.paths)
    pairs = [(find(image), find(mask or "")) for image, mask in rows]
    absent = [
        name
        for row, pair in zip(rows, pairs, strict=True)
        for name, path in zip(row, pair, strict=True)
        if path is None
    ]
    if absent:
        raise_missing(
            f"{len(absent)} files that the list of {split} names do not exist, the first is "
            f"'{absent[0]}'; correct the list"
        )
    return [(image, mask) for image, mask in pairs if image is not None and mask is not None]


def choose_rows(
    pairs: Iterable[tuple[str, str, str]], rows: Mapping[str, Sequence[Row]]
) -> dict[str, list[tuple[str, str, str]]]:
    """Pairs of image, mask and name, divided by lists of images.

    Raises:
        UserError: a listed image has no pair, or is in two lists.
    """
    pairs = list(pairs)
    by_image = {pair[0]: pair for pair in pairs}
    by_name = {pair[2]: pair for pair in pairs}
    find = _Finder(by_image)
    divided: dict[str, list[tuple[str, str, str]]] = {}
    owner: dict[str, str] = {}
    for split, entries in rows.items():
        absent = []
        for name, _ in entries:
            path = find(name)
            pair = by_name.get(name) if path is None else by_image[path]
            if pair is None:
                absent.append(name)
                continue
            if owner.setdefault(pair[0], split) != split:
                both = f"{owner[pair[0]]} and {split}"
                raise UserError(f"'{pair[0]}' is in the lists of {both}; remove it from one")
            divided.setdefault(split, []).append(pair)
        if absent:
            raise_missing(
                f"{len(absent)} of {len(entries)} images that the list of {split} names have no "
                f"image with a mask, the first is '{absent[0]}'; correct the list, or give "
                "--data.splits folders to leave lists aside"
            )
    return divided


class _Finder:
    """Paths by a name in a list: the path, its end, or its stem, where that is unique."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = set(paths)
        self.by_name: dict[str, list[str]] = defaultdict(list)
        for path in self.paths:
            pure = PurePosixPath(path)
            self.by_name[pure.name].append(path)
            if pure.stem != pure.name:
                self.by_name[pure.stem].append(path)

    def __call__(self, name: str) -> str | None:
        wanted = name.replace("\\", "/").lstrip("/").removeprefix("./")
        if wanted in self.paths:
            return wanted
        parts = PurePosixPath(wanted).parts
        candidates = self.by_name.get(parts[-1], []) if parts else []
        for depth in range(len(parts), 0, -1):  # the longest common end first
            end = "/".join(parts[-depth:])
            fitting = [p for p in candidates if _ends(p, end)]
            if len(fitting) == 1:
                return fitting[0]
            if fitting:
                first, second, *_ = sorted(fitting)
                raise UserError(
                    f"'{name}' in a list fits '{first}' and '{second}'; give its folder"
                )
        return None


def _ends(path: str, end: str) -> bool:
    stem = path.rpartition(".")[0]
    return any(f"/{text}".endswith(f"/{end}") for text in (path, stem))
