"""Pairing images and masks by their names: usual folder names, suffixes and splits.

A path says three things: whether it is an image or a mask (a folder like ``images`` or ``masks``,
else a suffix like ``_mask``), its split (a folder like ``train``), and the rest, which an image and
its mask have in common.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from scenewise.data.formats.listing import Listing, split_of
from scenewise.data.images import SUFFIXES
from scenewise.errors import UserError

# Images that cannot be read; they are named, not left out silently.
UNREADABLE = (
    *(".heic", ".heif", ".jp2", ".j2k", ".jpx", ".avif", ".jxl", ".svg", ".psd", ".exr", ".hdr"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".dcm"),
)
_IMAGE_WORDS = {
    *("images", "image", "imgs", "img", "jpegimages", "leftimg8bit", "photos", "photo"),
    *("rgb", "input", "inputs", "frames", "original", "originals", "sat", "scans"),
}
_MASK_WORDS = {
    *("masks", "mask", "labels", "label", "annotations", "annotation", "annot", "ann", "anns"),
    *("gt", "gts", "gtfine", "groundtruth", "segmentation", "segmentations", "seg", "segs"),
    *("segmentationclass", "segmentationclasspng", "segmentationclassraw", "segmentationclassaug"),
    *("target", "targets", "labelmap", "labelmaps", "labeltrainids", "labelids", "truth"),
}
_NOT_MASKS = {
    "color",
    "colors",
    "instance",
    "instances",
    "instanceids",
    "overlay",
    "vis",
    "preview",
}
_ANNOT = re.compile(r"(train|val|test)(annot|_labels)?")  # SegNet's folders
_YEAR = re.compile(r"([a-z]+)20\d\d")


@dataclass(frozen=True)
class _Place:
    """What a path says: role "image", "mask" or "", split, folders in common, and stem."""

    path: str
    role: str
    split: str | None
    key: tuple[str, ...]
    stem: str


@dataclass
class Pairs:
    """The images and masks of a dataset.

    Attributes:
        splits: split -> pairs of paths below the root and their common name; the split is ``all``
            if no path names one.
        lone_images: images without a mask, by split.
        lone_masks: masks without an image, by split.
        unreadable: images of a kind that cannot be read, by split.
        reason: what was paired, in one line.
    """

    splits: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)
    lone_images: dict[str, list[str]] = field(default_factory=dict)
    lone_masks: dict[str, list[str]] = field(default_factory=dict)
    unreadable: dict[str, list[str]] = field(default_factory=dict)
    reason: str = ""


def pair_by_name(listing: Listing) -> Pairs:
    """The pairs of a listing.

    Raises:
        UserError: two images or masks of one name, or one image with two masks.
    """
    places = [_place(path) for path in listing.paths if _kind(path)]
    images = [p for p in places if p.role == "image"]
    masks = [p for p in places if p.role == "mask"]
    rest = [p for p in places if not p.role]
    if masks and not images:
        images = rest
    elif not masks and not images:
        images, masks = _by_suffix(rest)
    unreadable = [p for p in images if _kind(p.path) == "unreadable"]
    images = [p for p in images if _kind(p.path) == "image"]
    masks = [p for p in masks if _kind(p.path) == "image"]
    return _join(images, masks, unreadable)


def _kind(path: str) -> str:
    suffix = PurePosixPath(path).suffix.lower()
    return "image" if suffix in SUFFIXES else "unreadable" if suffix in UNREADABLE else ""


def _place(path: str) -> _Place:
    *folders, name = PurePosixPath(path).parts
    role, split, key = "", None, []
    for folder in reversed(folders):  # the deepest folder decides
        of_folder, of_split = _meaning(folder)
        if of_folder and not role:
            role = of_folder
        elif of_folder or not of_split:
            key.append(folder)
        if of_split and split is None:
            split = of_split
        elif of_split and not of_folder:
            key.append(folder)
    return _Place(path, role, split, tuple(reversed(key)), PurePosixPath(name).stem)


def _meaning(folder: str) -> tuple[str, str | None]:
    """The role and the split that a folder's name gives.

    >>> _meaning("masks"), _meaning("train"), _meaning("val_images"), _meaning("aachen")
    (('mask', None), ('', 'train'), ('image', 'val'), ('', None))
    >>> _meaning("trainannot"), _meaning("train2017"), _meaning("img_dir")
    (('mask', 'train'), ('', 'train'), ('image', None))
    """
    lower = folder.lower()
    segnet, year = _ANNOT.fullmatch(lower), _YEAR.fullmatch(lower)
    if segnet and segnet[2]:
        return "mask", split_of(segnet[1])
    if year:
        return "", split_of(year[1])
    words = _words(lower)
    roles = {"image" for word in words if word in _IMAGE_WORDS}
    roles |= {"mask" for word in words if word in _MASK_WORDS}
    if words & _NOT_MASKS:
        roles = set()
    splits = {split for word in words if (split := split_of(word))}
    if len(splits) != 1 or (not roles and words != {lower}):
        splits = set()  # a split in a compound counts next to a role alone: train_images
    return (roles.pop() if len(roles) == 1 else ""), (splits.pop() if splits else None)


def _words(text: str) -> set[str]:
    return {word for word in re.split(r"[\W_]+", text.lower()) if word}


def _by_suffix(places: Sequence[_Place]) -> tuple[list[_Place], list[_Place]]:
    """Images and masks in the same folders: masks have a suffix, or are the lossless ones."""
    masks = [p for p in places if _core(p.stem, _MASK_WORDS) != p.stem]
    if masks:
        of_mask = {p.path for p in masks}
        images = [p for p in places if p.path not in of_mask and not _is_view(p.stem)]
        return images, masks
    by_stem: dict[tuple[object, ...], list[_Place]] = defaultdict(list)
    for place in places:
        by_stem[place.split, place.key, place.stem].append(place)
    twins = [pair for pair in by_stem.values() if len(pair) == 2]
    masks = [p for pair in twins for p in pair if p.path.lower().endswith((".png", ".bmp", ".gif"))]
    images = [p for pair in twins for p in pair if p not in masks]
    if len(masks) != len(twins) or any(not _lossy(p.path) for p in images):
        return list(places), []
    others = [p for places in by_stem.values() if len(places) != 2 for p in places]
    return images + [p for p in others if _lossy(p.path)], masks


def _lossy(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in (".jpg", ".jpeg", ".jfif", *UNREADABLE)


def _is_view(stem: str) -> bool:
    return re.split(r"[\W_]+", stem.lower())[-1] in _NOT_MASKS


def _core(stem: str, words: set[str]) -> str:
    """``stem`` without an image's ending and without words of a role at its ends.

    >>> _core("a_01_mask", _MASK_WORDS), _core("a.jpg", _MASK_WORDS), _core("mask-7", _MASK_WORDS)
    ('a_01', 'a', '7')
    >>> _core("aachen_000000_000019_gtFine_labelTrainIds", _MASK_WORDS)
    'aachen_000000_000019'
    """
    before = ""
    while before != stem:
        before = stem
        if PurePosixPath(stem).suffix.lower() in SUFFIXES:
            stem = PurePosixPath(stem).stem
        last = re.fullmatch(r"(.+?)[\W_]+([A-Za-z0-9]+)", stem)
        if last and last[2].lower() in words:
            stem = last[1]
        first = re.fullmatch(r"([A-Za-z0-9]+)[\W_]+(.+)", stem)
        if first and first[1].lower() in words:
            stem = first[2]
    return stem


def _join(images: Sequence[_Place], masks: Sequence[_Place], unreadable: Sequence[_Place]) -> Pairs:
    """Each mask with the image of its stem: in the same split and folder, else the only one."""
    _refuse_twins(images)
    index = _Index([*images, *unreadable])
    mask_of: dict[str, list[_Place]] = defaultdict(list)
    pairs = Pairs()
    for mask in masks:
        image = index.find(mask)
        if image is not None:
            mask_of[image.path].append(mask)
        elif not _is_view(mask.stem):
            pairs.lone_masks.setdefault(mask.split or "all", []).append(mask.path)
    for image in images:
        found = _one_mask(image, mask_of.get(image.path, []))
        split = image.split or (found.split if found else None) or "all"
        if found is None:
            pairs.lone_images.setdefault(split, []).append(image.path)
        else:
            name = "/".join((*image.key, image.stem))
            pairs.splits.setdefault(split, []).append((image.path, found.path, name))
    for image in unreadable:
        pairs.unreadable.setdefault(image.split or "all", []).append(image.path)
    for rows in pairs.splits.values():
        rows.sort(key=lambda row: row[2])
    pairs.reason = _reason(pairs)
    return pairs


class _Index:
    """Images by what they have in common with their masks."""

    def __init__(self, images: Iterable[_Place]) -> None:
        self.levels: list[dict[tuple[object, ...], set[_Place]]] = [{} for _ in range(4)]
        for image in images:
            core = _core(image.stem, _IMAGE_WORDS)
            for level, key in zip(self.levels, self._keys(image, image.stem, core), strict=True):
                level.setdefault(key, set()).add(image)

    @staticmethod
    def _keys(place: _Place, stem: str, core: str) -> list[tuple[object, ...]]:
        # Strict levels first; the last two are for masks, or images, that are not divided alike.
        return [
            (place.split, place.key, stem),
            (place.split, place.key, core),
            (place.key, core),
            (core,),
        ]

    def find(self, mask: _Place) -> _Place | None:
        """The image of a mask, or None.

        Raises:
            UserError: two images fit.
        """
        core = _core(mask.stem, _MASK_WORDS)
        for k, key in enumerate(self._keys(mask, mask.stem, core)):
            fitting = {
                image
                for image in self.levels[k].get(key, ())
                if k < 2 or _differ_in_depth(image, mask)
            }
            if len(fitting) == 1:
                return next(iter(fitting))
            if fitting:
                first, second, *_ = sorted(image.path for image in fitting)
                raise UserError(
                    f"mask '{mask.path}' fits '{first}' and '{second}'; rename one of the images"
                )
        return None


def _differ_in_depth(image: _Place, mask: _Place) -> bool:
    """Whether one of the two names no split, or no folder, where the other does."""
    splits = image.split == mask.split or None in (image.split, mask.split)
    keys = image.key == mask.key or () in (image.key, mask.key)
    return splits and keys


def _one_mask(image: _Place, masks: Sequence[_Place]) -> _Place | None:
    """The mask of an image; of Cityscapes' files the one of training ids, else of ids."""
    candidates = [mask for mask in masks if not _is_view(mask.stem)] or list(masks)
    for ending in ("labelTrainIds", "labelIds"):
        preferred = [mask for mask in candidates if mask.stem.endswith(ending)]
        candidates = preferred or candidates
    if len(candidates) > 1:
        first, second, *_ = sorted(mask.path for mask in candidates)
        raise UserError(
            f"'{first}' and '{second}' are both masks of '{image.path}'; remove or rename one, or "
            "join masks of one class each into one"
        )
    return candidates[0] if candidates else None


def _refuse_twins(images: Sequence[_Place]) -> None:
    seen: dict[tuple[object, ...], str] = {}
    for image in images:
        other = seen.setdefault((image.split, image.key, image.stem), image.path)
        if other != image.path:
            first, second = sorted((other, image.path))
            raise UserError(f"'{first}' and '{second}' share one mask; rename or remove one")


def _reason(pairs: Pairs) -> str:
    rows = next((rows for rows in pairs.splits.values() if rows), None)
    if rows is None:
        return "no image has a mask"
    image, mask, _ = rows[0]
    return f"images with masks of the same name, such as '{image}' with '{mask}'"
