"""Recognising the layout of a folder and opening its splits: ``Source``, ``open_dataset``."""

import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from scenewise.data.datasets import PairedDataset, Root, SegmentationDataset, Transform
from scenewise.data.division import divide
from scenewise.data.formats import FORMATS
from scenewise.data.formats.folder import Folder, FolderDataset, WithoutMask, read_folder
from scenewise.data.formats.label_option import parse_labels
from scenewise.data.formats.listing import Listing, list_root
from scenewise.data.formats.merge import merged
from scenewise.data.shards import ShardSet
from scenewise.errors import UserError, choose
from scenewise.files import write_text

_COUNTED = 2000  # images; so many are alike in their classes if divided at random
Labels = str | Mapping[str, str]


class Recognised(NamedTuple):
    """The format of a folder, and the reason in one line."""

    format: str
    reason: str


def recognise(root: Root | Listing) -> Recognised:
    """The format of the data in a folder, judged by names and a few small files.

    Raises:
        UserError: several formats fit.
    """
    listing = root if isinstance(root, Listing) else list_root(root)
    reasons = {
        name: reason
        for name, form in FORMATS.items()
        if form.recognise is not None and (reason := form.recognise(listing)) is not None
    }
    if len(reasons) > 1:
        ways = " or ".join(f"--data.format {name} ({reason})" for name, reason in reasons.items())
        raise UserError(f"'{listing.root}' can be read in {len(reasons)} ways; choose {ways}")
    return Recognised(*next(iter(reasons.items()), ("folder", "")))


class Source:
    """The data under ``root``: what it was taken for, and its splits.

    A split ``val`` that does not exist is taken out of ``train``, or of all images, see
    :func:`scenewise.data.division.divide`.

    Args:
        root: the folder; for some formats a name on the hub, or a URL.
        format: name of a format; "auto" recognises it.
        labels: which class each stored value, colour or class is; see
            :mod:`scenewise.data.formats.label_option`.
        without_mask: for "folder": "refuse", "skip" images without a mask, or read them as
            "background".
        val_share: share of the images that become ``val`` if there is no such split; 0 for none.
        val_seed: of that division.
        splits: a folder with lists of an earlier division; or "lists" or "folders", which of the
            two divides the images of "folder" if they differ.

    Raises:
        UserError: the format is unknown or ambiguous, or the data is not readable.
    """

    def __init__(
        self,
        root: Root,
        format: str = "auto",
        *,
        labels: Labels | None = None,
        without_mask: WithoutMask = "refuse",
        val_share: float = 0.2,
        val_seed: int = 0,
        splits: str | None = None,
    ) -> None:
        check_format(format)
        if not 0 <= val_share < 1:
            raise UserError(f"val_share is {val_share}; give a share from 0 to below 1")
        self.root, self.val_share, self.val_seed, self.lists = root, val_share, val_seed, splits
        self._labels = parse_labels(labels)
        self.format, self.reason, listing = _identify(root, format)
        self.folder: Folder | None = None
        self.available: tuple[str, ...] | None = None
        if self.format == "folder":
            by = splits if splits in ("lists", "folders") else None
            self.folder = read_folder(listing or list_root(root), self._labels, without_mask, by)
            self.available, self.reason = self.folder.splits, self.folder.pairs.reason
        elif form_splits := FORMATS[self.format].splits:
            self.available = tuple(form_splits(listing or _listing(root, self.format)))
        if self.format != "folder" and (self._labels.values or self._labels.colors):
            raise UserError(
                f"the format {self.format} knows what the values in its masks are; labels can "
                "rename, merge and ignore its classes by name, like car=vehicle,truck=vehicle"
            )

    @property
    def divided(self) -> str | None:
        """The split that is divided into train and val, if the data has no val."""
        if self.available is None or "val" in self.available or not self.val_share:
            return None
        return next((name for name in ("train", "all") if name in self.available), None)

    @cached_property
    def _whole(self) -> SegmentationDataset:
        return self._open(self.divided or "", None)

    @cached_property
    def division(self) -> dict[str, list[int]]:
        """The indices of train and val within the split that is divided."""
        whole = self._whole
        folder = self.lists if self.lists not in (None, "lists", "folders") else None
        if folder is not None:
            return _listed_division(whole, Path(folder))
        present = _present(whole) if len(whole) <= _COUNTED else None
        train, val = divide(whole.names, present, self.val_share, self.val_seed)
        if not train or not val:
            raise UserError(
                f"'{self.root}' has {len(whole)} images, too few to take validation images out of; "
                "add images, or a folder val"
            )
        return {"train": train, "val": val}

    def dataset(self, split: str, transform: Transform | None = None) -> SegmentationDataset:
        """One split.

        Raises:
            UserError: it does not exist, or files are missing.
        """
        if self.divided is not None and split in ("train", "val"):
            chosen = self._whole.select(self.division[split])
            chosen.transform = transform
            return chosen
        if self.available is not None and split not in self.available:
            has = [*self.available] if self.divided is None else ["train", "val"]
            hint = "; --data.test_split val scores val" if split == "test" and "val" in has else ""
            raise UserError(
                f"split '{split}' not found in '{self.root}'; it has {' and '.join(has)}{hint}"
            )
        return self._open(split, transform)

    def _open(self, split: str, transform: Transform | None) -> SegmentationDataset:
        dataset: SegmentationDataset
        if self.folder is not None:
            dataset = FolderDataset(self.root, split, transform, folder=self.folder)
        else:
            dataset = FORMATS[self.format].open(self.root, split, transform)
        if not self._labels.names:
            return dataset
        if isinstance(dataset, ShardSet):
            raise UserError("labels cannot merge classes of shards; prepare them with these labels")
        return merged(dataset, self._labels.names)

    def write_division(self, folder: Path) -> None:
        """Write ``train.txt`` and ``val.txt`` with the names of a seeded division, if there is one.

        Read them again with ``splits=folder``.
        """
        if self.divided is None:
            return
        for split, indices in self.division.items():
            names = "".join(f"{self._whole.names[i]}\n" for i in indices)
            write_text(folder / f"{split}.txt", names)

    def use_division(self, folder: Path, same: bool) -> bool:
        """Divide by the lists that :meth:`write_division` wrote; whether there is such a division.

        Lists that the user chose are kept.

        Args:
            folder: of the lists.
            same: whether the lists must be of this data; else they are used only if they are.
        """
        if self.divided is None or self.lists is not None or not folder.is_dir():
            return False
        if not same and not _fits(self._whole, folder):
            return False
        self.lists = str(folder)
        self.__dict__.pop("division", None)  # of the cached property
        return True

    def describe(self, opened: Mapping[str, SegmentationDataset]) -> str:
        """What ``root`` was taken for and why, its classes, and the images of each split.

        Args:
            opened: splits that are open.
        """
        dataset = next(iter(opened.values()))
        reason = f" ({self.reason})" if self.reason else ""
        names = ", ".join(dataset.classes.names[:20])
        more = ", ..." if len(dataset.classes) > 20 else ""
        values = self.folder.reading.text() if self.folder else ""
        counts = ", ".join(f"{count} {split}" for split, count in self._counts(opened).items())
        return (
            f"'{self.root}' is read as {self.format}{reason}; {len(dataset.classes)} classes from "
            f"{dataset.classes_from}: {names}{more}{f' ({values})' if values else ''}; images: "
            f"{counts}{self._how()}"
        )

    def _counts(self, opened: Mapping[str, SegmentationDataset]) -> dict[str, int]:
        counts = {split: len(dataset) for split, dataset in opened.items()}
        if self.folder is not None:
            counts = {s: len(rows) for s, rows in self.folder.pairs.splits.items()} | counts
        if self.divided is not None:
            counts |= {split: len(indices) for split, indices in self.division.items()}
            counts.pop("all", None)
        return {
            split: counts[split] for split in ("train", "val", "test", "all") if split in counts
        }

    def _how(self) -> str:
        if self.divided is None:
            return ""
        if self.lists not in (None, "lists", "folders"):
            return f" (divided by the lists in '{self.lists}')"
        return f" (val is {self.val_share:.0%} of {self.divided}, seed {self.val_seed})"


def open_dataset(  # noqa: PLR0913 - the options of --data
    root: Root,
    split: str = "train",
    format: str = "auto",
    *,
    transform: Transform | None = None,
    labels: Labels | None = None,
    without_mask: WithoutMask = "refuse",
    val_share: float = 0.2,
    val_seed: int = 0,
    splits: str | None = None,
) -> SegmentationDataset:
    """One split of the data in ``root``, whose layout is recognised.

    ``dataset[i]`` is ``{"image", "mask", "name"}``; masks hold class ids in the order of
    ``dataset.classes``.

    Args:
        root: the folder.
        split: train, val or test.
        format: the name of a format; "auto" recognises it.
        transform: joint transform of image and mask.
        labels: which class each stored value, colour or class is, like ``0=ignore,1=road``.
        without_mask: "refuse", "skip", or "background" for images without a mask.
        val_share: share of the images that become ``val`` if there is no such split.
        val_seed: of that division.
        splits: see :class:`Source`.

    Raises:
        UserError: the layout is unknown or ambiguous, the split is missing, or files are.
    """
    source = Source(
        root,
        format,
        labels=labels,
        without_mask=without_mask,
        val_share=val_share,
        val_seed=val_seed,
        splits=splits,
    )
    return source.dataset(split, transform)


def check_format(format: str) -> None:
    """Raise a UserError unless ``format`` is "auto" or the name of a format."""
    if format != "auto" and format not in FORMATS:
        raise UserError(f"unknown data format '{format}'; {choose(format, ['auto', *FORMATS])}")


def _identify(root: Root, format: str) -> tuple[str, str, Listing | None]:
    """The format of ``root``, why, and its listing if one was made."""
    source = os.fspath(root)
    if format != "auto":
        return format, "", None
    if re.match(r"[a-z][a-z0-9]+://", source):
        return "stream", "an address, so shards", None
    if not Path(source).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise UserError(
            f"'{source}' not found; check the path, or give --data.format hugging_face if it is a "
            "name on the hub"
        )
    listing = list_root(source)
    return *recognise(listing), listing


def _listing(root: Root, format: str) -> Listing:
    """The listing of a folder; an empty one of a name on the hub."""
    if format == "hugging_face" and not Path(root).exists():
        return Listing(Path(root), {})
    return list_root(root)


def _listed_division(whole: SegmentationDataset, folder: Path) -> dict[str, list[int]]:
    """The division that :meth:`Source.write_division` wrote.

    Raises:
        UserError: a list is missing or empty, or names an image that does not exist.
    """
    index = {name: k for k, name in enumerate(whole.names)}
    division = {}
    for split in ("train", "val"):
        path = folder / f"{split}.txt"
        try:
            names = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"cannot read the list '{path}' ({error}); give --data.splits the folder with "
                "train.txt and val.txt, lists, or folders"
            ) from error
        absent = [name for name in names if name not in index]
        if absent or not names:
            what = f"names '{absent[0]}', which is not in the data" if absent else "is empty"
            raise UserError(f"the list '{path}' {what}; restore the data, or remove the lists")
        division[split] = [index[name] for name in names]
    return division


def _fits(whole: SegmentationDataset, folder: Path) -> bool:
    try:
        return bool(_listed_division(whole, folder))
    except UserError:
        return False


def _present(dataset: SegmentationDataset) -> NDArray[np.bool_]:
    """(images, classes): which classes occur in each image; none in unreadable ones."""

    def classes(k: int) -> NDArray[np.bool_]:
        row = np.zeros(256, bool)
        try:
            if isinstance(dataset, PairedDataset):
                mask = dataset.read_mask(dataset.masks[k])
            else:
                _, mask = dataset.read(k)
        except UserError:  # reported where it is read for training
            return row[: len(dataset.classes)]
        row[torch.unique(mask).numpy()] = True
        row[dataset.classes.ignore_index] = False
        return row[: len(dataset.classes)]

    with ThreadPoolExecutor() as pool:
        return np.stack([*pool.map(classes, range(len(dataset)))])
