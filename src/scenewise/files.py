"""Files that appear whole or not at all."""

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
    """Yield a temporary path beside ``path``; rename it to ``path`` when the block succeeds.

    The temporary name keeps the suffix of ``path``, so that writers which choose a format by the
    suffix work. After an error the temporary file is removed and an older ``path`` is untouched.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.

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
        temporary.chmod(0o666 & ~_umask())
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    except OSError as error:
        raise UserError(
            f"cannot write '{target}': {error.strerror or error}; choose a folder with room that "
            "you may write to"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` to ``path`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def parse_json(content: bytes) -> Any:
    """What JSON from a stranger means, if it means the same to every reader.

    Raises:
        ValueError: no JSON, not UTF-8, a key that stands twice, a number that no float holds, NaN,
            half of a surrogate pair, or brackets within brackets a thousand times.

    >>> parse_json(b'{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ValueError: the key 'a' stands there twice
    """
    text = content.decode("utf-8-sig")
    try:
        value = json.loads(
            text, object_pairs_hook=_once_each, parse_float=_finite, parse_constant=_finite
        )
    except RecursionError:
        raise ValueError("it has too many brackets within brackets") from None
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()  # refuses half a pair
    return value


def inside(folder: Path, name: str) -> Path:
    """``folder / name``, for a name that a stranger's file holds.

    Raises:
        UserError: that would be outside the folder.

    >>> inside(Path("out"), "aachen/000").as_posix()
    'out/aachen/000'
    >>> inside(Path("out"), "../000")
    Traceback (most recent call last):
    scenewise.errors.UserError: the name '../000' leads out of the folder 'out'; ...
    """
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or not parts[0] or re.match("[A-Za-z]:", name) or "\0" in name:
        raise UserError(
            f"the name '{name}' leads out of the folder '{folder}'; take the data from its "
            "publisher, or rename the picture"
        )
    return folder / name


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands there twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
