"""PASCAL VOC 2012 segmentation, alone and with the labels of the Semantic Boundaries Dataset.

M. Everingham and others, "The PASCAL Visual Object Classes Challenge", IJCV 2010/2015;
B. Hariharan and others, "Semantic Contours from Inverse Detectors", ICCV 2011 (SBD).
"""

import os
from pathlib import Path

from torch import Tensor

from scenewise.classes import VOC as VOC_CLASSES
from scenewise.data.datasets import PairedDataset, Transform
from scenewise.data.formats.find_files import check_pairs, find_base, read_names
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
VOID = (224, 224, 192)  # colour of the border round the objects, id 255
_IDS = id_table({k: k for k in range(21)})
_DEVKIT = (".", "VOC2012", "VOCdevkit/VOC2012")
_SBD = (".", "benchmark_RELEASE/dataset", "dataset", "sbd", "VOCaug/dataset", "SBD")


class VOC(PairedDataset):
    """``ImageSets/Segmentation/SPLIT.txt``, ``JPEGImages`` and ``SegmentationClass``.

    Labels are indexed pictures as published, or the same in colours.

    Args:
        root: the folder that holds ``VOCdevkit``, or ``VOC2012`` itself.
        split: ``train``, ``val``, ``trainval``, or another list in ``ImageSets/Segmentation``.
        transform: joint transform of picture and mask.

    Raises:
        UserError: a folder or list is missing, or pictures have no label.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        transform: Transform | None = None,
    ) -> None:
        base = _devkit(root, split, "SegmentationClass")
        names = read_names(base / f"ImageSets/Segmentation/{split}.txt")
        images = [base / "JPEGImages" / f"{name}.jpg" for name in names]
        masks = [base / "SegmentationClass" / f"{name}.png" for name in names]
        check_pairs(images, masks, f"VOC {split}")
        super().__init__(images, masks, CLASSES, transform)
        self.published_count = {"train": 1464, "val": 1449, "trainval": 2913}.get(split)

    def read_mask(self, path: Path) -> Tensor:
        """Class ids of an indexed or a coloured label, or of SBD's MATLAB file."""
        if path.suffix == ".mat":
            ids = id_map(read_mat(path), path, "GTcls", "Segmentation")
            return translate(ids, _IDS, path, "VOC ids (0 to 20)")
        if is_color(path):
            return read_colors(path, color_table(CLASSES.colors, (VOID,)), "VOC's 22 colours")
        return translate(read_mask(path).numpy(), _IDS, path, "VOC ids (0 to 20, 255)")


class VOCAug(VOC):
    """VOC 2012 whose training pictures are the 10,582 that VOC or SBD labelled, "aug".

    ``train`` is VOC's train and SBD's train and val, less VOC's val; a picture that both labelled
    has VOC's label. Every other split is VOC's own. Labels: ``SegmentationClassAug/*.png`` beside
    ``SegmentationClass`` where it exists, with the list ``trainaug.txt`` or ``train_aug.txt``;
    else SBD as published, ``benchmark_RELEASE/dataset`` with ``cls/*.mat`` (or ``cls/*.png``),
    ``train.txt`` and ``val.txt``.

    Args:
        root: the folder that holds ``VOCdevkit`` and ``benchmark_RELEASE``.
        split: ``train``, ``val``, ...
        transform: joint transform of picture and mask.

    Raises:
        UserError: a folder or list is missing, or pictures have no label.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        transform: Transform | None = None,
    ) -> None:
        super().__init__(root, split, transform)
        if split != "train":
            return
        base = self.masks[0].parents[1]
        names, masks = _ready_made(base) or _from_sbd(Path(root), base, self.names)
        images = [base / "JPEGImages" / f"{name}.jpg" for name in names]
        check_pairs(images, masks, "VOC aug train")
        self.names, self.images, self.masks = names, images, masks
        self.published_count = 10582


def _devkit(root: str | os.PathLike[str], split: str, labels: str) -> Path:
    needs = [f"ImageSets/Segmentation/{split}.txt", "JPEGImages", labels]
    return find_base(root, "PASCAL VOC 2012", needs, _DEVKIT)


def _ready_made(base: Path) -> tuple[list[str], list[Path]] | None:
    """Names and masks of a ``SegmentationClassAug`` folder that somebody made."""
    lists = [base / f"ImageSets/Segmentation/{name}.txt" for name in ("trainaug", "train_aug")]
    found = next((path for path in lists if path.exists()), None)
    if found is None or not (base / "SegmentationClassAug").is_dir():
        return None
    names = [Path(word).stem for word in read_names(found)]
    return names, [base / "SegmentationClassAug" / f"{name}.png" for name in names]


def _from_sbd(root: Path, base: Path, own: list[str]) -> tuple[list[str], list[Path]]:
    """Names and masks of "aug" from SBD as published; ``own`` are VOC's training names."""
    sbd = find_base(root, "SBD (benchmark_RELEASE)", ["cls", "train.txt", "val.txt"], _SBD)
    held_out = set(read_names(base / "ImageSets/Segmentation/val.txt"))
    more = set(read_names(sbd / "train.txt") + read_names(sbd / "val.txt")) - held_out - set(own)
    masks = {name: base / "SegmentationClass" / f"{name}.png" for name in own}
    ending = ".mat" if next((sbd / "cls").glob("*.mat"), None) else ".png"
    masks |= {name: sbd / "cls" / f"{name}{ending}" for name in more}
    return sorted(masks), [masks[name] for name in sorted(masks)]
