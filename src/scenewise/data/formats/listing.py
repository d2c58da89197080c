"""The listing of a dataset's folder: what the formats recognise a layout by.

A listing holds names alone; a format may read a few small files through it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from scenewise.errors import UserError
from scenewise.files import parse_json

_MOST = 2_000_000  # files; more is a disk, not a dataset
_LARGEST_TEXT = 2**26  # bytes of a file that is read to recognise a layout
_HIDDEN = {"__macosx", "thumbs.db", "desktop.ini", "@eadir"}  # what systems leave in folders
SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
    "all": ("all",),  # images that are not divided
}
_SPLIT_OF = {alias: split for split, aliases in SPLITS.items() for alias in aliases}


@dataclass(frozen=True)
class Listing:
    """The visible files under ``root``.

    Attributes:
        root: the folder.
        folders: the sorted file names of each folder, by its path below ``root`` in POSIX form;
            ``"."`` is ``root`` itself. Folders without files are listed too.
    """

    root: Path
    folders: Mapping[str, tuple[str, ...]]

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """All files as POSIX paths below ``root``."""
        return tuple(
            name if folder == "." else f"{folder}/{name}"
            for folder, names in self.folders.items()
            for name in names
        )

    @cached_property
    def sample(self) -> tuple[str, ...]:
        """Up to ten files of each folder, which show how its files are called."""
        return tuple(
            name if folder == "." else f"{folder}/{name}"
            for folder, names in self.folders.items()
            for name in names[:10]
        )

    def has(self, path: str) -> bool:
        """Whether the file or folder ``path`` exists."""
        head = PurePosixPath(path)
        return path in self.folders or head.name in self.folders.get(head.parent.as_posix(), ())

    def match(self, pattern: str) -> list[str]:
        """The files whose path below ``root`` matches; ``*`` also matches ``/``, as in fnmatch."""
        return [path for path in self.paths if fnmatchcase(path, pattern)]

    def text(self, path: str) -> str:
        """The text of a small file; empty if it is not UTF-8 text, too large or unreadable."""
        file = self.root / path
        try:
            if file.stat().st_size > _LARGEST_TEXT:
                return ""
            return file.read_bytes().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError):
            return ""

    def json(self, path: str) -> Any:
        """The value of a small JSON file; None if it is not one."""
        try:
            return parse_json(self.text(path).encode())
        except (ValueError, RecursionError):
            return None


def list_root(root: str | os.PathLike[str]) -> Listing:
    """List ``root`` and all folders below, without hidden files.

    Raises:
        UserError: it is not a folder, or it holds millions of files.
    """
    base = Path(root)
    if not base.is_dir():
        what = "is a file" if base.exists() else "does not exist"
        raise UserError(f"'{base}' {what}; give the folder of the dataset")
    folders: dict[str, tuple[str, ...]] = {}
    count, seen = 0, set()
    for folder, inner, names in os.walk(base, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not _left_out(Path(folder, name)))
        visible = tuple(sorted(name for name in names if not is_hidden(name)))
        folders[Path(folder).relative_to(base).as_posix()] = visible
        count += len(visible)
        if count > _MOST:
            raise UserError(f"'{base}' holds over {_MOST:,} files; give the folder of the dataset")
    return Listing(base, folders)


def _left_out(folder: Path) -> bool:
    """Whether a folder is hidden, or holds what ``scenewise prepare`` wrote."""
    prepared = folder.name.startswith("prepared_") and (folder / "classes.json").is_file()
    return prepared or is_hidden(folder.name)


def is_hidden(name: str) -> bool:
    """Whether systems hide the file or folder ``name``.

    >>> is_hidden(".DS_Store"), is_hidden("._a.png"), is_hidden("Thumbs.db"), is_hidden("a.png")
    (True, True, True, False)
    """
    return name.startswith(".") or name.lower() in _HIDDEN


def split_of(name: str) -> str | None:
    """The split that a folder or list called ``name`` holds: train, val, test, all or None.

    >>> split_of("Validation"), split_of("valid"), split_of("aachen")
    ('val', 'val', None)
    """
    return _SPLIT_OF.get(name.lower())
