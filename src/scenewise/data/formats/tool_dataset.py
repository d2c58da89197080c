"""The base of what labelling tools export: finding the images, splits and classes of an export."""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from scenewise.classes import Classes, Color, distinct_colors
from scenewise.data.datasets import PairedDataset, Root, Transform
from scenewise.data.formats.find_files import check_pairs, contents
from scenewise.data.formats.label_maps import translate
from scenewise.data.formats.listing import Listing, list_root, split_of
from scenewise.data.formats.regions import Region, Size, paint
from scenewise.data.images import KINDS, SUFFIXES, read_mask
from scenewise.errors import UserError
from scenewise.files import parse_json

IGNORE = "__ignore__"  # a label of this name marks pixels that are neither trained nor scored
_BACKGROUND = ("background", "_background_", "__background__", "bg")
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
_ORIENTATION = 0x0112  # EXIF tag
_BROKEN = (
    KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, OSError, SyntaxError
)  # fmt: skip


class Drawn(NamedTuple):
    """An image, and the regions that were drawn on it.

    Attributes:
        image: the file.
        source: the file of the regions, or ``FILE/NAME`` for an entry of a file.
        size: (H, W) of the image, as the tool says; ``None`` if it does not.
        regions: in the order in which they are drawn.
    """

    image: Path
    source: Path
    size: Size | None
    regions: Sequence[Region] = ()


class ToolDataset(PairedDataset):
    """Base of what labelling tools export.

    Args:
        root: folder of the export.
        split: ``train``, ``val`` or ``test``, or ``all`` if the export is not divided.
        transform: joint transform of image and mask.

    Raises:
        UserError: the export is broken or incomplete, or has no such split.

    Attributes:
        title: the tool's name in messages.
        needs: what every export holds, in messages.
    """

    title: ClassVar[str]
    needs: ClassVar[str]

    def __init__(
        self, root: Root, split: str = "train", transform: Transform | None = None
    ) -> None:
        listing = list_root(root)
        with reading(listing.root, self.title):
            parts = self.parts(listing)
            if not parts:
                raise UserError(
                    f"{self.needs} not found in '{root}', so it is not an export of {self.title}; "
                    f"{contents(listing.root)}; give the folder of the export"
                )
            if split not in parts:
                raise UserError(
                    f"split '{split}' not found in '{root}'; it has {', '.join(parts)}; add it, or "
                    "divide the images"
                )
            images, masks, classes = self.find(listing, parts[split])
        check_pairs(images, masks, f"{self.title} {split}")
        super().__init__(images, masks, classes, transform, unique_names(images, listing.root))
        self.classes_from = f"the export of {self.title}"

    @classmethod
    def parts(cls, listing: Listing) -> Mapping[str, Any]:
        """What :meth:`find` needs for each split that the export has; empty if it is no export."""
        raise NotImplementedError

    def find(self, listing: Listing, part: Any) -> tuple[list[Path], list[Path], Classes]:
        """The images of a part, the label of each, and the classes."""
        raise NotImplementedError

    @classmethod
    def splits(cls, listing: Listing) -> tuple[str, ...]:
        """The splits of the export: train, val, test, or all."""
        with reading(listing.root, cls.title):
            return tuple(cls.parts(listing))


class MaskDataset(ToolDataset):
    """Base of the tools that export one mask file for each image.

    A subclass sets ``table``, from the values in the files to class ids, in :meth:`find`.
    """

    table: NDArray[np.uint8]

    def read_mask(self, path: Path) -> Tensor:
        """The class ids in a mask file of the tool."""
        ids = read_mask(path).numpy()
        return translate(ids, self.table, path, f"those of {self.title}'s class list")


class DrawnDataset(ToolDataset):
    """Base of the tools that export regions, which are drawn when an image is read.

    Pixels without a region belong to class 0, ``background``: a class of that name (or
    ``_background_``, ``bg``) in the export, else one that is put before the others. Regions with
    the label ``__ignore__`` become the ignore index.

    Attributes:
        by_area: whether small regions are drawn on top of large ones; else later on earlier ones.
    """

    by_area: ClassVar[bool] = False

    def find(self, listing: Listing, part: Any) -> tuple[list[Path], list[Path], Classes]:
        items, classes = self.draw(listing, part)
        self._drawn = {item.source: item for item in items}
        return [item.image for item in items], [item.source for item in items], classes

    def draw(self, listing: Listing, part: Any) -> tuple[list[Drawn], Classes]:
        """The images of a part with their regions, and the classes."""
        raise NotImplementedError

    def read_mask(self, path: Path) -> Tensor:
        """The class ids (H, W), uint8, of the regions from ``path``."""
        item = self._drawn[path]
        size = image_size(item.image)
        if item.size is not None and item.size != size:
            raise UserError(
                f"'{path}' was drawn on {item.size[1]} x {item.size[0]} pixels, but image "
                f"'{item.image}' has {size[1]} x {size[0]}; give the image that was labelled"
            )
        with reading(path, self.title):
            return torch.from_numpy(paint(self.regions(item, size), size, self.by_area))

    def regions(self, item: Drawn, size: Size) -> Sequence[Region]:
        """The regions of an image; a subclass may read them only now."""
        return item.regions


@contextmanager
def reading(path: Path, tool: str) -> Iterator[None]:
    """Turns errors about the content of ``path`` into one sentence."""
    try:
        yield
    except UserError:
        raise
    except _BROKEN as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"cannot read '{path}' ({reason}); export it again from {tool}") from error


def read_json(path: Path, tool: str) -> Any:
    """The content of a tool's JSON file.

    Raises:
        UserError: it is missing or not valid JSON.
    """
    with reading(path, tool):
        return parse_json(path.read_bytes())


def drawn_classes(
    labels: Iterable[str], colors: Mapping[str, Color] | None = None
) -> tuple[Classes, dict[str, int]]:
    """The classes of regions with these labels, background first, and the id of each label.

    Raises:
        UserError: a label occurs twice.

    >>> classes, ids = drawn_classes(["road", "__ignore__", "sky"])
    >>> classes.names, ids
    (('background', 'road', 'sky'), {'road': 1, 'sky': 2, '__ignore__': 255})
    >>> drawn_classes(["road", "background"])[0].names
    ('background', 'road')
    """
    names = list(labels)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"class name '{twice[0]}' occurs twice; rename one of the two")
    first = next((name for name in names if name.casefold() in _BACKGROUND), "background")
    others = [name for name in names if name not in (first, IGNORE)]
    ordered = [first, *others]
    shown = {first: (0, 0, 0), **dict(zip(others, distinct_colors(len(others)), strict=True))}
    shown.update({name: color for name, color in (colors or {}).items() if name in shown})
    ids = {name: k for k, name in enumerate(ordered) if name in names} | {IGNORE: 255}
    return Classes(tuple(ordered), tuple(shown[name] for name in ordered)), ids


def written_labels(classes: Classes) -> dict[int, str]:
    """The label of each id as a tool gets it: all but the background, and the ignored pixels.

    >>> written_labels(Classes.numbered(2))
    {0: 'class_0', 1: 'class_1', 255: '__ignore__'}
    >>> written_labels(Classes(("background", "road"), ((0, 0, 0), (9, 9, 9))))
    {1: 'road', 255: '__ignore__'}
    """
    names = dict(enumerate(classes.names))
    first = next((k for k, name in names.items() if name.casefold() in _BACKGROUND), None)
    names = {k: name for k, name in names.items() if k not in (first, classes.ignore_index)}
    return names | {classes.ignore_index: IGNORE}


def by_split(paths: Iterable[str], names: bool = False) -> dict[str, list[str]]:
    """Paths by the split that a folder names, with ``names`` also a word of the file's name.

    Those that name none are ``all``.

    Raises:
        UserError: some are in a split and some are not.

    >>> by_split(["Valid/a.json", "train/a.json"])
    {'train': ['train/a.json'], 'val': ['Valid/a.json']}
    >>> by_split(["a/instances_val2017.json"], names=True), by_split(["a/test_01.json"])
    ({'val': ['a/instances_val2017.json']}, {'all': ['a/test_01.json']})
    """
    found: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        *folders, name = path.split("/")
        words = [*folders, *(re.split(r"[^A-Za-z]+", name.rpartition(".")[0]) if names else ())]
        splits = [split for word in words if (split := split_of(word))]
        found[splits[0] if splits else "all"].append(path)
    if len(found) > 1 and "all" in found:
        other = next(split for split in found if split != "all")
        raise UserError(
            f"'{found['all'][0]}' is in no split, but '{found[other][0]}' is in {other}; move it "
            "into a split's folder, or out of the dataset"
        )
    return {split: found[split] for split in ("train", "val", "test", "all") if split in found}


class ImageFiles:
    """The images of a listing; names that a tool wrote are looked up among these alone."""

    def __init__(self, listing: Listing) -> None:
        self.root = listing.root
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_path: dict[str, Path] = {}
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for name in listing.paths:
            if name.lower().endswith(SUFFIXES):
                path = listing.root / name
                self._by_name[path.name.casefold()].append(path)
                self._by_path[os.path.normpath(path)] = path
                self._by_stem[_stem(path)].append(path)

    def find(self, names: Sequence[str], folders: Sequence[Path]) -> list[Path]:
        """The image of each name: all in the first folder that holds any, else wherever they are.

        A name that is not found gives a path that does not exist, for the message about it.

        Raises:
            UserError: two images of that name are found.
        """
        for folder in folders:
            paths = [self.at(folder, name) for name in names]
            if any(paths):
                return [
                    path or folder / os.path.basename(_relative(name))
                    for path, name in zip(paths, names, strict=True)
                ]
        return [self._anywhere(name) for name in names]

    def at(self, folder: Path, name: str) -> Path | None:
        """The image ``name`` as seen from ``folder``, if there is one."""
        return self._by_path.get(os.path.normpath(folder / _relative(name)))

    def beside(self, source: Path) -> Path | None:
        """The image that has the name of the file ``source`` but for its suffix."""
        same = {path.suffix.lower(): path for path in self._by_stem.get(_stem(source), ())}
        return next((same[suffix] for suffix in SUFFIXES if suffix in same), None)

    def _anywhere(self, name: str) -> Path:
        wanted = [part for part in _relative(name).split("/") if part not in ("..", ".")]
        paths = self._by_name.get(wanted[-1].casefold(), []) if wanted else []
        ending = [path for path in paths if list(path.parts[-len(wanted) :]) == wanted]
        paths = ending if len(ending) == 1 else paths
        if len(paths) > 1:
            raise UserError(
                f"'{name}' may be '{paths[0]}' or '{paths[1]}'; leave one of the two in the folder"
            )
        return paths[0] if paths else self.root / (wanted[-1] if wanted else "image without a name")


def unique_names(images: Sequence[Path], root: Path) -> list[str]:
    """A name for each image: the file name without suffix, with its folders if that is not unique.

    Raises:
        UserError: two images differ in the suffix alone.
    """
    names = [path.stem for path in images]
    if len({name.casefold() for name in names}) < len(names):
        names = [path.relative_to(root).with_suffix("").as_posix() for path in images]
    seen: dict[str, Path] = {}
    for name, image in zip(names, images, strict=True):
        if name in seen:
            raise UserError(f"'{seen[name]}' and '{image}' share one name; rename or remove one")
        seen[name] = image
    return names


@cache
def warn(message: str) -> None:
    """Say something about the data that does not stop the reading, once."""
    logging.getLogger(__name__).warning(message)


def hex_color(text: str) -> Color:
    """A colour such as ``#fa3253``.

    >>> hex_color("#fa3253")
    (250, 50, 83)
    """
    code = int(text.removeprefix("#"), 16)
    if code >> 24:
        raise ValueError(f"'{text}' is not a colour")
    return code >> 16, code >> 8 & 255, code & 255


def _stem(path: Path) -> str:
    return os.path.normpath(path.with_suffix(""))


def _relative(name: str) -> str:
    """A name from a file, with forward slashes and without drive or leading slash."""
    return re.sub(r"^([A-Za-z]:)?/+", "", name.replace("\\", "/")).replace("\0", "")


def image_size(path: Path) -> Size:
    """(H, W) of an image as its EXIF orientation shows it; only the header is read."""
    try:
        with Image.open(path, formats=KINDS) as image:
            turned = image.getexif().get(_ORIENTATION, 1) in _TURNED
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception as error:  # decoders raise many types for damaged files
        raise UserError(f"cannot read image '{path}' ({error}); replace or remove it") from error
