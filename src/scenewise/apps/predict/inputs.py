"""Which pictures there are and what their results are called, however many there are.

The list lies in a temporary file (SQLite), so that memory does not grow with it.
"""

import glob
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from scenewise.data.images import SUFFIXES
from scenewise.errors import UserError
from scenewise.visualize import video

TABLE = "CREATE TABLE pictures (real BLOB PRIMARY KEY, word INTEGER, path BLOB) WITHOUT ROWID"
# Of two paths to one file, the first one counts: by word, then by name.
ADD = """INSERT INTO pictures VALUES (?, ?, ?) ON CONFLICT (real) DO UPDATE
    SET word = excluded.word, path = excluded.path
    WHERE (excluded.word, excluded.path) < (pictures.word, pictures.path)"""


class Listing:
    """The pictures and videos that files, folders and glob patterns name, each once, in order.

    Iteration gives each path with its name: that of the file without suffix; where two files share
    it, the suffix is kept, or the folders.

    Attributes:
        left_out: the number of files in the folders that are neither picture nor video.

    Raises:
        UserError: a word names no picture.

    >>> [name for _, name in Listing(["x/a.png", "y/a.png"], must_exist=False)]
    ['x/a', 'y/a']
    """

    def __init__(self, words: Sequence[str], *, must_exist: bool = True) -> None:
        self.left_out = 0
        self._top = ""
        self._table = sqlite3.connect("")  # a file that goes away by itself
        self._table.create_function("folded", 2, lambda path, kind: self._name(path, kind, True))
        self._table.execute(TABLE)
        for number, word in enumerate(words):
            self._add(number, word, self._found(word) if must_exist else [word])
        self._kind = next((kind for kind in range(4) if self._tells_apart(kind)), 3)

    def __len__(self) -> int:
        return int(self._table.execute("SELECT count(*) FROM pictures").fetchone()[0])

    def __iter__(self) -> Iterator[tuple[Path, str]]:
        for (path,) in self._table.execute("SELECT path FROM pictures ORDER BY word, path"):
            yield Path(os.fsdecode(path)), self._name(path, self._kind)

    def first_video(self) -> Path | None:
        """The first video, if there is any."""
        return next((path for path, _ in self if is_video(path)), None)

    def _found(self, word: str) -> Iterator[str]:
        if os.path.isdir(word):
            with os.scandir(word) as inside:
                for entry in inside:
                    if is_video(entry.name) or os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                        if entry.is_file():
                            yield os.path.join(word, entry.name)
                    elif entry.is_file():
                        self.left_out += 1
        elif os.path.exists(word):
            yield word
        else:
            yield from filter(os.path.isfile, glob.iglob(word, recursive=True))

    def _add(self, number: int, word: str, paths: Iterable[str]) -> None:
        empty = True
        for path in paths:
            empty = False
            path = os.fspath(Path(path))  # without ./ and double slashes
            folder = os.path.dirname(os.path.abspath(path))
            self._top = os.path.commonpath([self._top or folder, folder])
            row = (os.fsencode(os.path.realpath(path)), number, os.fsencode(path))
            self._table.execute(ADD, row)
        if empty:
            raise UserError(
                f"'{word}' names no picture; give a picture, a folder of them, or a pattern"
            )

    def _name(self, path: bytes, kind: int, folded: bool = False) -> str:
        file = Path(os.fsdecode(path))
        if kind > 1:
            file = Path(os.path.abspath(file)).relative_to(self._top)
        name = (file.stem, file.name, file.with_suffix("").as_posix(), file.as_posix())[kind]
        # SQLite takes no lone surrogates, which stand for bytes that are no UTF-8
        return name.casefold().encode("utf-8", "backslashreplace").decode() if folded else name

    def _tells_apart(self, kind: int) -> bool:
        count = "SELECT count(*) = count(DISTINCT folded(path, ?)) FROM pictures"
        return bool(self._table.execute(count, (kind,)).fetchone()[0])


def is_video(file: str | Path) -> bool:
    """Whether the name is a video's."""
    return os.path.splitext(file)[1].lower() in video.SUFFIXES
