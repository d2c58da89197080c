"""Inputs of ``scenewise predict``: which images and videos, in which order, under which names."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from scenewise.data.images import SUFFIXES
from scenewise.errors import UserError
from scenewise.visualize import video


class Inputs:
    """The images and videos that files, folders and glob patterns give, each file once, in order.

    Iteration gives each path with the name of its results: the file's name without suffix; where
    that is not unique the suffix is kept, or the folders.

    Attributes:
        left_out: number of files in the folders that are neither image nor video.

    Raises:
        UserError: an argument gives no image.

    >>> [name for _, name in Inputs(["x/a.png", "y/a.png"], must_exist=False)]
    ['x/a', 'y/a']
    """

    def __init__(self, words: Sequence[str], *, must_exist: bool = True) -> None:
        self.left_out = 0
        first: dict[str, tuple[int, str]] = {}  # real path -> (index of the word, path as given)
        folders = set()
        for index, word in enumerate(words):
            paths = [os.fspath(Path(p)) for p in (self._find(word) if must_exist else [word])]
            if not paths:
                raise UserError(
                    f"no image found for '{word}'; give an image, a folder of images, or a pattern"
                )
            for path in paths:
                folders.add(os.path.dirname(os.path.abspath(path)))
                entry, real = (index, path), os.path.realpath(path)
                first[real] = min(first.get(real, entry), entry)
        self._files = [path for _, path in sorted(first.values())]
        self._name = unique_naming(self._files, os.path.commonpath(folders))

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[tuple[Path, str]]:
        return ((Path(file), self._name(file)) for file in self._files)

    def first_video(self) -> Path | None:
        """The first video, if any."""
        return next((Path(file) for file in self._files if is_video(file)), None)

    def _find(self, word: str) -> Iterator[str]:
        if os.path.isdir(word):
            for entry in os.scandir(word):
                usable = is_video(entry.name) or Path(entry.name).suffix.lower() in SUFFIXES
                if usable and entry.is_file():
                    yield entry.path
                self.left_out += not usable and entry.is_file()
        elif os.path.exists(word):
            yield word  # before patterns: its name may hold brackets
        else:
            yield from filter(os.path.isfile, glob.iglob(word, recursive=True))


def is_video(file: str | Path) -> bool:
    """Whether the suffix is a video's."""
    return os.path.splitext(file)[1].lower() in video.SUFFIXES


def unique_naming(files: Sequence[str], top: str) -> Callable[[str], str]:
    """Gives each file its name: the shortest of four kinds that is unique, case aside.

    Args:
        files: their paths.
        top: the folder that holds them all.
    """
    kinds: tuple[Callable[[Path], str], ...] = (
        lambda path: path.stem,
        lambda path: path.name,
        lambda path: path.with_suffix("").as_posix(),
        lambda path: path.as_posix(),
    )
    for kind in kinds:
        name = partial(_name, kind, top)
        if len({name(file).casefold() for file in files}) == len(files):
            break
    return name


def _name(kind: Callable[[Path], str], top: str, file: str) -> str:
    return kind(Path(os.path.abspath(file)).relative_to(top))
