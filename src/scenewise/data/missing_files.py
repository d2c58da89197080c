"""Missing files of a dataset: an error in training, findings in ``scenewise check``."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from scenewise.errors import UserError

_tolerant = ContextVar("tolerant", default=False)


@contextmanager
def tolerate_missing() -> Iterator[None]:
    """Datasets built inside keep the names of missing files; :func:`raise_missing` does nothing."""
    token = _tolerant.set(True)
    try:
        yield
    finally:
        _tolerant.reset(token)


def raise_missing(message: str) -> None:
    """Raise a UserError because files are missing, unless inside :func:`tolerate_missing`.

    >>> with tolerate_missing():
    ...     raise_missing("1 of 3 images is missing")
    """
    if not _tolerant.get():
        raise UserError(message)


def missing(files: Sequence[Path]) -> list[Path]:
    """The files that do not exist; each folder is listed once.

    A path below a file (``labels.json/NAME``) names an entry of that file and counts as existing.

    >>> missing([Path("no_such_folder/a.png")])
    [...Path('no_such_folder/a.png')]
    """
    folders = {path.parent for path in files}
    names = {folder: set(os.listdir(folder)) for folder in folders if folder.is_dir()}
    containers = {folder for folder in folders if folder.is_file()}
    return [
        p for p in files if p.parent not in containers and p.name not in names.get(p.parent, ())
    ]
