"""PASCAL VOC 2012 segmentation, alone and with the labels of the Semantic Boundaries Dataset.

M. Everingham and others, "The PASCAL Visual Object Classes Challenge", IJCV 2010/2015;
B. Hariharan and others, "Semantic Contours from Inverse Detectors", ICCV 2011 (SBD).
"""

from pathlib import Path
from typing import ClassVar

from torch import Tensor

from scenewise.classes import VOC as VOC_CLASSES
from scenewise.data.formats.find_files import Pairs, PublishedDataset, Signs, find_base, read_names
from scenewise.data.formats.label_maps import (
    color_table,
    id_table,
    is_color,
    read_colors,
    translate,
)
from scenewise.data.formats.matlab import id_map, read_mat
from scenewise.data.images import read_mask

CLASSES = VOC_CLASSES
_VOID = (224, 224, 192)  # colour of the border round the objects, id 255
_IDS = id_table({k: k for k in range(21)})
_DEVKIT = (".", "VOC2012", "VOCdevkit/VOC2012")
_SBD = (".", "benchmark_RELEASE/dataset", "dataset", "sbd", "VOCaug/dataset", "SBD")
_LISTS = "ImageSets/Segmentation"
_BASE = r"(VOCdevkit/)?(VOC2012/)?"
_SIGNS = (
    rf"{_BASE}JPEGImages/20\d\d_\d{{6}}\.jpg",
    rf"{_BASE}{_LISTS}/train\.txt",
    rf"{_BASE}SegmentationClass/20\d\d_\d{{6}}\.png",
)


class VOC(PublishedDataset):
    """``ImageSets/Segmentation/SPLIT.txt``, ``JPEGImages`` and ``SegmentationClass``.

    Labels are indexed images as published, or the same in colours. ``root`` holds ``VOCdevkit``, or
    is ``VOC2012``. Splits: ``train``, ``val``, ``trainval``, and any other list in
    ``ImageSets/Segmentation``.
    """

    title = "VOC"
    published_classes = CLASSES
    published_counts: ClassVar = {"train": 1464, "val": 1449, "trainval": 2913}
    signs: ClassVar[Signs] = (_SIGNS,)

    def find(self, root: Path, split: str) -> Pairs:
        needs = [f"{_LISTS}/{split}.txt", "JPEGImages", "SegmentationClass"]
        base = find_base(root, "PASCAL VOC 2012", needs, _DEVKIT)
        names = read_names(base / _LISTS / f"{split}.txt")
        images = [base / "JPEGImages" / f"{name}.jpg" for name in names]
        return images, [base / "SegmentationClass" / f"{name}.png" for name in names]

    def read_mask(self, path: Path) -> Tensor:
        """Class ids of an indexed or a colour label, or of SBD's MATLAB file."""
        if path.suffix == ".mat":
            ids = id_map(read_mat(path), path, "GTcls", "Segmentation")
            return translate(ids, _IDS, path, "VOC ids (0 to 20)")
        if is_color(path):
            return read_colors(path, color_table(CLASSES.colors, (_VOID,)), "VOC's 22 colours")
        return translate(read_mask(path).numpy(), _IDS, path, "VOC ids (0 to 20, 255)")


class VOCAug(VOC):
    """VOC 2012 whose training images are the 10,582 that VOC or SBD labelled, "aug".

    ``train`` is VOC's train and SBD's train and val, less VOC's val; an image that both labelled
    has VOC's label. Every other split is VOC's own. Labels: ``SegmentationClassAug/*.png`` next to
    ``SegmentationClass`` where it exists, with the list ``trainaug.txt`` or ``train_aug.txt``;
    else SBD as published, ``benchmark_RELEASE/dataset`` with ``cls/*.mat`` (or ``cls/*.png``),
    ``train.txt`` and ``val.txt``. ``root`` holds ``VOCdevkit`` and ``benchmark_RELEASE``.
    """

    title = "VOC aug"
    published_counts: ClassVar = {**VOC.published_counts, "train": 10582}
    signs: ClassVar[Signs] = tuple(
        (*_SIGNS, labels)
        for labels in (
            r"(.*/)?SegmentationClassAug/20\d\d_\d{6}\.png",
            r"(.*/)?cls/20\d\d_\d{6}\.mat",
        )
    )

    def find(self, root: Path, split: str) -> Pairs:
        images, masks = super().find(root, split)
        if split != "train":
            return images, masks
        base = images[0].parents[1]
        label_of = _ready_made(base) or _from_sbd(root, base, {p.stem: p for p in masks})
        return [base / "JPEGImages" / f"{name}.jpg" for name in label_of], [*label_of.values()]


def _ready_made(base: Path) -> dict[str, Path]:
    """The label of each name in the list of a ``SegmentationClassAug`` folder, if there is one."""
    lists = [base / _LISTS / f"{name}.txt" for name in ("trainaug", "train_aug")]
    path = next((path for path in lists if path.exists()), None)
    if path is None or not (base / "SegmentationClassAug").is_dir():
        return {}
    names = [Path(word).stem for word in read_names(path)]
    return {name: base / "SegmentationClassAug" / f"{name}.png" for name in names}


def _from_sbd(root: Path, base: Path, voc: dict[str, Path]) -> dict[str, Path]:
    """The label of each name of "aug", from SBD as published and VOC's training labels ``voc``."""
    sbd = find_base(root, "SBD (benchmark_RELEASE)", ["cls", "train.txt", "val.txt"], _SBD)
    names = {*read_names(sbd / "train.txt"), *read_names(sbd / "val.txt")}
    ending = ".mat" if next((sbd / "cls").glob("*.mat"), None) else ".png"
    labels = {name: sbd / "cls" / f"{name}{ending}" for name in names}
    for name in read_names(base / _LISTS / "val.txt"):
        labels.pop(name, None)  # VOC validates on it
    return dict(sorted((labels | voc).items()))
