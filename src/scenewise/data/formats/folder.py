"""Your own images and masks in folders, whatever these are called: ``FolderDataset``."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from scenewise.classes import Classes
from scenewise.data.class_lists import find_class_list, read_class_list
from scenewise.data.datasets import PairedDataset, Root, Transform
from scenewise.data.formats.label_colors import BACKGROUND
from scenewise.data.formats.label_option import LabelOption, parse_labels
from scenewise.data.formats.label_reading import Reading
from scenewise.data.formats.label_values import decide
from scenewise.data.formats.listing import Listing, list_root
from scenewise.data.formats.pairing import Pairs, pair_by_name
from scenewise.data.formats.split_lists import choose_rows, pairs_of_rows, read_lists
from scenewise.data.formats.stored_values import take_inventory
from scenewise.data.images import read_image
from scenewise.data.missing_files import raise_missing
from scenewise.errors import UserError

_SAMPLE = 64  # masks that are read to find out what their values mean
_EMPTY = "without_mask"  # a mask path IMAGE/without_mask: all background
WithoutMask = str  # "refuse", "skip" or "background"


@dataclass(frozen=True)
class Folder:
    """What is in a folder: its pairs by split, and how its masks are read.

    Attributes:
        root: the folder.
        pairs: images with their masks, and files that are left over.
        reading: the classes, and how stored values become class ids.
        without_mask: what images without a mask are: "refuse", "skip" or "background".
    """

    root: Path
    pairs: Pairs
    reading: Reading
    without_mask: WithoutMask = "refuse"

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that hold images or masks, also those that lack the other."""
        held = {*self.pairs.splits, *(self.pairs.lone_masks.keys() - {"all"})}
        if self.without_mask != "skip":
            held |= self.pairs.lone_images.keys() - {"all"}
        return tuple(name for name in ("train", "val", "test", "all") if name in held)


def read_folder(
    root: Root | Listing,
    labels: LabelOption | None = None,
    without_mask: WithoutMask = "refuse",
    by: str | None = None,
) -> Folder:
    """Pair the images and masks of a folder, and find out what the masks mean.

    Args:
        root: the folder, or its listing.
        labels: the parsed option ``--data.labels``.
        without_mask: what to do with images without a mask: "refuse", "skip", or read them as
            "background".
        by: "lists" or "folders", if list files and folders divide the images differently.

    Raises:
        UserError: nothing can be paired, or pairs or values allow two readings.
    """
    if without_mask not in ("refuse", "skip", "background"):
        raise UserError(f"without_mask is '{without_mask}'; choose refuse, skip or background")
    listing = root if isinstance(root, Listing) else list_root(root)
    option = labels or LabelOption()
    pairs = _divided_by_lists(listing, by)
    found = read_class_list(option.file) if option.file else find_class_list(listing)
    masks = [listing.root / mask for rows in pairs.splits.values() for _, mask, _ in rows]
    if not masks:
        raise _nothing(listing, pairs)
    inventory = take_inventory(_sample(masks) if found or option.values else masks)
    return Folder(listing.root, pairs, decide(found, inventory, option), without_mask)


class FolderDataset(PairedDataset):
    """Your own images with masks of the same names: ``images/SPLIT/a.jpg``, ``masks/SPLIT/a.png``.

    Other usual names of the folders do too, with splits above or below, list files such as
    ``train.txt``, or one folder with both. Masks hold class ids, 0 and 255, grey levels or colours;
    a class list such as ``classes.json`` names the classes, see
    :func:`~scenewise.data.class_lists.read_class_list`. Without one they are numbered.

    Args:
        root: the folder.
        split: ``train``, ``val`` or ``test``; ``all`` if the images are not divided.
        transform: joint transform of image and mask.
        labels: which class each stored value is; see :mod:`scenewise.data.formats.label_option`.
        folder: what :func:`read_folder` found, instead of reading ``root`` again.

    Raises:
        UserError: the split is missing, an image has no mask, two images share a name, or the class
            list or the masks allow no reading, or two.
    """

    def __init__(
        self,
        root: Root,
        split: str = "train",
        transform: Transform | None = None,
        labels: str | Mapping[str, str] | None = None,
        folder: Folder | None = None,
    ) -> None:
        self.folder = folder or read_folder(root, parse_labels(labels))
        pairs, reading, base = self.folder.pairs, self.folder.reading, self.folder.root
        if split not in self.folder.splits:
            raise UserError(
                f"split '{split}' not found in '{base}'; it has {', '.join(self.folder.splits)}"
            )
        rows = [*pairs.splits.get(split, []), *_without_mask(self.folder, split)]
        if not rows:
            lone = pairs.lone_masks.get(split, [])
            raise UserError(
                f"{len(lone)} masks of the split '{split}' have no image, the first is "
                f"'{base / lone[0]}'; add the images, or remove the masks"
            )
        rows.sort(key=lambda row: row[2])
        images, masks, names = (list(column) for column in zip(*rows, strict=True))
        super().__init__(
            [base / path for path in images],
            [base / path for path in masks],
            reading.classes,
            transform,
            names,
        )
        self.classes_from = reading.source
        self.notes = _notes(self.folder, split)

    def read_mask(self, path: Path) -> Tensor:
        """The class ids (H, W), uint8, in the file ``path``."""
        if path.name == _EMPTY:
            height, width = read_image(path.parent, self.layout).shape[1:]
            k = _background(self.classes)
            return torch.full((height, width), k, dtype=torch.uint8)
        return self.folder.reading.ids(path)


def _divided_by_lists(listing: Listing, by: str | None) -> Pairs:
    """The pairs by name, divided by list files if there are any; rows of two columns are pairs."""
    lists = read_lists(listing) if by != "folders" else {}
    if lists and all(mask is not None for rows in lists.values() for _, mask in rows):
        splits = {}
        for split, rows in lists.items():
            found = pairs_of_rows(listing, rows, split)
            splits[split] = [(image, mask, _name(image)) for image, mask in found]
        return Pairs(splits, reason=f"images with the masks that its lists of {_and(lists)} name")
    pairs = pair_by_name(listing)
    if not lists:
        return pairs
    rows_by_split = choose_rows([row for rows in pairs.splits.values() for row in rows], lists)
    if by is None and [*pairs.splits] != ["all"]:
        named = {split: pairs.splits.get(split) for split in rows_by_split}
        if any(sorted(rows) != named[split] for split, rows in rows_by_split.items()):
            raise UserError(
                f"the lists of {_and(lists)} and the folders of '{listing.root}' divide the images "
                "differently; choose --data.splits lists or --data.splits folders"
            )
        return pairs
    listed = {row[0] for rows in rows_by_split.values() for row in rows}
    lone = {"all": [path for paths in pairs.lone_images.values() for path in paths]}
    unlisted = sum(row[0] not in listed for rows in pairs.splits.values() for row in rows)
    more = f"; {unlisted} images are in no list" if unlisted else ""
    reason = f"{pairs.reason}, divided by lists of {_and(lists)}{more}"
    return replace(pairs, splits=rows_by_split, lone_images=lone, reason=reason)


def _name(image: str) -> str:
    return PurePosixPath(image).with_suffix("").as_posix()


def _and(names: Mapping[str, object]) -> str:
    return " and ".join(names)


def _sample(masks: list[Path]) -> list[Path]:
    step = -(-len(masks) // _SAMPLE)  # evenly spread, rounded up
    return masks[::step]


def _without_mask(folder: Folder, split: str) -> list[tuple[str, str, str]]:
    """Rows for the images of a split without a mask, as the user wants them.

    Raises:
        UserError: there are some, and the user has not said what they are.
    """
    lone = folder.pairs.lone_images.get(split, [])
    if not lone or folder.without_mask == "skip":
        return []
    if folder.without_mask == "background":
        _background(folder.reading.classes)
        return [(path, f"{path}/{_EMPTY}", _name(path)) for path in lone]
    pairs = folder.pairs.splits.get(split, [])
    total = len(pairs) + len(lone)
    where = (folder.root / lone[0]).parent
    expected = [_expected_mask(path, pairs) for path in lone]
    raise_missing(
        f"{len(lone)} of {total} images in '{where}' have no mask, the first is "
        f"'{folder.root / expected[0]}'; add the masks, or give --data.without_mask skip to leave "
        "these images out, or background if nothing is in them"
    )
    rows = zip(lone, expected, strict=True)  # only reached inside tolerate_missing
    return [(path, mask, _name(path)) for path, mask in rows]


def _expected_mask(image: str, pairs: list[tuple[str, str, str]]) -> str:
    """Where the mask of ``image`` would be, as its neighbours have theirs."""
    folder, stem = PurePosixPath(image).parent, PurePosixPath(image).stem
    near = [pair for pair in pairs if PurePosixPath(pair[0]).parent == folder] or pairs
    if not near:
        return f"{folder}/{stem}_mask.png"
    other_stem, other = PurePosixPath(near[0][0]).stem, PurePosixPath(near[0][1])
    return (other.parent / other.name.replace(other_stem, stem)).as_posix()


def _background(classes: Classes) -> int:
    found = [k for k, name in enumerate(classes.names) if name.lower() in BACKGROUND]
    if not found:
        raise UserError(
            f"images without a mask cannot be background: no class is called so (they are "
            f"{', '.join(classes.names[:8])}); give --data.without_mask skip"
        )
    return found[0]


def _notes(folder: Folder, split: str) -> list[str]:
    """What a user should know about the files of a split that are not used, and odd pixels."""
    pairs, notes = folder.pairs, []
    left_out = {
        "of a kind that cannot be read (convert to PNG or JPEG)": pairs.unreadable.get(split, []),
    }
    if split != "all":
        left_out["in no split"] = [image for image, _, _ in pairs.splits.get("all", [])]
    if folder.without_mask != "refuse":
        what = f"without a mask ({folder.without_mask})"
        left_out[what] = pairs.lone_images.get(split, [])
    for what, paths in left_out.items():
        if paths:
            names = ", ".join(PurePosixPath(path).name for path in paths[:5])
            more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
            noun = "image" if len(paths) == 1 else "images"
            notes.append(f"{len(paths)} {noun} {what}: {names}{more}")
    if folder.reading.off:
        share = f"{folder.reading.off:.2%}"
        notes.append(f"{share} of the sampled pixels have colours of no class; they are ignored")
    return notes


def _nothing(listing: Listing, pairs: Pairs) -> UserError:
    lone = [path for paths in pairs.lone_images.values() for path in paths]
    masks = [path for paths in pairs.lone_masks.values() for path in paths]
    kinds = [path for paths in pairs.unreadable.values() for path in paths]
    held = [
        f"{len(paths)} {what}, such as '{paths[0]}'"
        for what, paths in (
            ("images without a mask", lone),
            ("masks without an image", masks),
            ("images of a kind that cannot be read", kinds),
        )
        if paths
    ]
    content = " and ".join(held) or "no images"
    return UserError(
        f"no image with a mask found in '{listing.root}', which holds {content}; name an image and "
        "its mask alike, in folders such as images/train and masks/train"
    )
