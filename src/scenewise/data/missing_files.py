"""Files that should be there: training refuses them, the check lists them and reads on."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from scenewise.errors import UserError

_listing = ContextVar("listing", default=False)


@contextmanager
def left_to_the_check() -> Iterator[None]:
    """Data sets made inside keep the names of files that are missing; :func:`refuse` is silent."""
    token = _listing.set(True)
    try:
        yield
    finally:
        _listing.reset(token)


def refuse(message: str) -> None:
    """Raise a UserError because files are missing, unless :func:`left_to_the_check`.

    >>> with left_to_the_check():
    ...     refuse("1 of 3 pictures is missing")
    """
    if not _listing.get():
        raise UserError(message)


def missing(files: Sequence[Path]) -> list[Path]:
    """Those that do not exist; every folder is listed once, and what is inside a file is there.

    >>> missing([Path("no_such_folder/a.png")])
    [...Path('no_such_folder/a.png')]
    """
    by_folder: dict[Path, set[str]] = defaultdict(set)
    for folder in {path.parent for path in files}:
        if folder.is_dir():
            by_folder[folder] = set(os.listdir(folder))
    inside = {folder for folder in {path.parent for path in files} if folder.is_file()}
    return [p for p in files if p.parent not in inside and p.name not in by_folder[p.parent]]
