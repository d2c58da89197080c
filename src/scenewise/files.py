"""Atomic writes, strict JSON, and safe paths for names that come from untrusted files."""

import json
import math
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scenewise.errors import UserError


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; rename it when the block succeeds.

    The temporary name keeps the suffix of ``path``, from which some writers choose the format.
    After an error the temporary file is removed and an existing ``path`` is unchanged.

    Raises:
        UserError: the folder is not writable, or the disk is full.

    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic_write(folder / "a.txt") as temporary:
    ...     _ = temporary.write_text("whole")
    >>> [p.name for p in folder.iterdir()]
    ['a.txt']
    """
    target = Path(path)
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{target.name}.", suffix=target.suffix, dir=target.parent
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes 0600
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # before the rename, so that a crash leaves no empty file
        temporary.replace(target)
    except OSError as error:
        raise UserError(
            f"cannot write '{target}': {error.strerror or error}; choose a writable folder with "
            "enough free space"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` to ``path`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def parse_json(content: bytes) -> Any:
    """Parse JSON from an untrusted file; refuse what parsers read in different ways.

    Raises:
        ValueError: invalid JSON, not UTF-8, a duplicate key, a number too large for a float, NaN,
            half of a surrogate pair, or brackets nested about a thousand deep.

    >>> parse_json(b'{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ValueError: duplicate key 'a'
    """
    text = content.decode("utf-8-sig")
    try:
        value = json.loads(
            text, object_pairs_hook=_once_each, parse_float=_finite, parse_constant=_finite
        )
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()  # fails on half a surrogate pair
    return value


def inside(folder: Path, name: str) -> Path:
    """``folder / name``, for a name from an untrusted file.

    Raises:
        UserError: the path would be outside the folder.

    >>> inside(Path("out"), "aachen/000").as_posix()
    'out/aachen/000'
    >>> inside(Path("out"), "../000")
    Traceback (most recent call last):
    scenewise.errors.UserError: the name '../000' leads out of the folder 'out'; ...
    """
    parts = name.replace("\\", "/").split("/")
    drive = re.match("[A-Za-z]:", name)  # of Windows; an empty first part is an absolute path
    if ".." in parts or not parts[0] or drive or "\0" in name:
        raise UserError(
            f"the name '{name}' leads out of the folder '{folder}'; take the data from its "
            "publisher, or rename the image"
        )
    return folder / name


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate key {next(n for n in value if names.count(n) > 1)!r}")
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def _umask() -> int:
    mask = os.umask(0)  # it can only be read by setting it
    os.umask(mask)
    return mask
