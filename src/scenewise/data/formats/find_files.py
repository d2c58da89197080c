"""The base class of published datasets, and finding their files under the folder a user gives."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from scenewise.classes import Classes
from scenewise.data.datasets import PairedDataset, Root, Transform
from scenewise.data.formats.listing import Listing
from scenewise.data.missing_files import missing, raise_missing
from scenewise.errors import UserError

Pairs = tuple[list[Path], list[Path]]  # images, and the label of each
Signs = tuple[tuple[str, ...], ...]  # alternatives of patterns of paths


class PublishedDataset(PairedDataset):
    """Base of the published datasets, which are read as their archives unpack.

    A subclass sets the class attributes, finds the files of a split in :meth:`find`, and turns
    published labels into class ids in ``read_mask``.

    Args:
        root: folder into which the publisher's archives were extracted.
        split: which images.
        transform: joint transform of image and mask.

    Raises:
        UserError: a folder or list is missing, or images have no label.

    Attributes:
        title: the dataset's name in messages.
        published_classes: its classes.
        published_counts: how many images were published, by part.
        signs: alternatives of patterns by which a folder is recognised: each pattern of one of them
            fits the whole path of some file.
        part: the part of the published dataset that the split is; ``find`` may change it.
        image_ending: end of the images' file names that is not part of a sample's name.
    """

    title: ClassVar[str]
    published_classes: ClassVar[Classes]
    published_counts: ClassVar[Mapping[str, int]] = MappingProxyType({})
    image_ending: ClassVar[str] = ""
    signs: ClassVar[Signs] = ()

    def __init__(
        self, root: Root, split: str = "train", transform: Transform | None = None
    ) -> None:
        self.part = split
        images, masks = self.find(Path(root), split)
        check_pairs(images, masks, f"{self.title} {split}")
        names = [path.stem.removesuffix(self.image_ending) for path in images]
        super().__init__(images, masks, self.published_classes, transform, names)

    def find(self, root: Path, split: str) -> Pairs:
        """The images of a split under ``root``, and the label file of each."""
        raise NotImplementedError

    @classmethod
    def recognise(cls, listing: Listing) -> str | None:
        """Why a folder holds this dataset; a class list of its own says that it does not."""
        if listing.has("classes.json"):
            return None
        for patterns in cls.signs:
            files = [_first(pattern, listing.sample) for pattern in patterns]
            if all(files):
                return f"{cls.title}, from files such as '{files[0]}' and '{files[-1]}'"
        return None

    @property
    def published_count(self) -> int | None:
        """How many images of this split were published, if known."""
        return self.published_counts.get(self.part)


def find_base(
    root: Root, what: str, needs: Sequence[str], under: Sequence[str] = (".",), instead: str = ""
) -> Path:
    """The first folder of ``root/under[0]``, ``root/under[1]``, ... that holds all of ``needs``.

    Args:
        root: the folder that the user gave.
        what: name of the dataset, for the message.
        needs: folders or files, relative to the folder that is looked for.
        under: candidates for that folder, relative to ``root``.
        instead: what other layouts need, for the message.

    Raises:
        UserError: no candidate holds all of them; lists the candidates and what is missing.
    """
    places = [Path(root) / sub for sub in under]
    for place in places:
        if all((place / need).exists() for need in needs):
            return place
    best = max(places, key=lambda place: sum((place / need).exists() for need in needs))
    absent = ", ".join(f"'{best / need}'" for need in needs if not (best / need).exists())
    others = ", ".join(f"'{place}'" for place in places if place != best)
    also = f" (looked for the same in {others})" if others else ""
    also += f", nor {instead}" if instead else ""
    raise UserError(
        f"{what} is not in '{root}': {absent} not found{also}; {contents(Path(root))}; give "
        "the folder into which the publisher's archives were extracted"
    )


def _first(pattern: str, paths: Sequence[str]) -> str | None:
    return next((path for path in paths if re.fullmatch(pattern, path)), None)


def check_pairs(images: Sequence[Path], masks: Sequence[Path], what: str) -> None:
    """Raise a UserError if there are no images, or if images or labels are missing."""
    if not images:
        raise UserError(f"no images found for {what}; extract the archive of images")
    for kind, files in (("images", images), ("labels", masks)):
        if absent := missing(files):
            some = ", ".join(f"'{path.name}'" for path in absent[:3])
            raise_missing(
                f"{len(absent)} of {len(files)} {kind} of {what} are missing, the first are {some} "
                f"in '{absent[0].parent}'; extract the whole archive again"
            )


def read_names(path: Path) -> list[str]:
    """The first word of every line of a list file.

    Raises:
        UserError: the file is unreadable or lists nothing.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read list '{path}' ({error}); extract the archive again") from None
    names = [words[0] for line in lines if (words := line.split())]
    if not names:
        raise UserError(f"list '{path}' names no images; extract the archive again")
    return names


def list_files(folder: Path, pattern: str) -> list[Path]:
    """The files of ``folder`` that match, in order of their names, without hidden ones."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def contents(root: Path) -> str:
    """What is in a folder, for a message."""
    if not root.exists():
        return "that folder does not exist"
    if not root.is_dir():
        return "that is a file"
    names = sorted(os.listdir(root))
    more = ", ..." if len(names) > 6 else ""
    return f"it holds {', '.join(names[:6])}{more}" if names else "it is empty"
