"""Cityscapes: streets of 50 cities, 2048 x 1024, 19 classes out of 34 labels.

M. Cordts and others, "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016.
"""

import os
from pathlib import Path
from typing import Literal

from torch import Tensor
from torchvision.datasets import Cityscapes as TorchvisionCityscapes

from scenewise.classes import CITYSCAPES
from scenewise.data.datasets import PairedDataset, Transform
from scenewise.data.formats.find_files import check_pairs, find_base, list_files
from scenewise.data.formats.label_maps import id_table, translate
from scenewise.data.images import read_mask
from scenewise.errors import UserError

LABELS = TorchvisionCityscapes.classes
TRAINED = sorted((x for x in LABELS if 0 <= x.train_id < 255), key=lambda x: x.train_id)
CLASSES = CITYSCAPES

# Categories 1 to 7 of the evaluation server (0 is void), and the classes of each.
CATEGORIES = {
    name: tuple(x.train_id for x in TRAINED if x.category == name)
    for name in ("flat", "construction", "object", "nature", "sky", "human", "vehicle")
}
SERVER_IDS = tuple(x.id for x in TRAINED)  # what the test server expects for classes 0 to 18

_FROM_LABEL_IDS = id_table(
    {x.id: x.train_id for x in TRAINED},
    ignored=[x.id for x in LABELS if x.id >= 0 and x.train_id in (-1, 255)],
)
_FROM_TRAIN_IDS = id_table({k: k for k in range(19)})


class Cityscapes(PairedDataset):
    """``leftImg8bit/SPLIT/CITY`` with ``gtFine/SPLIT/CITY``, as the two archives unpack.

    ``*_labelTrainIds.png`` are read where every picture has one, else ``*_labelIds.png``, whose 34
    ids become 19 classes and the ignored 255. The labels of ``test`` are dummies.

    Args:
        root: the folder that holds ``leftImg8bit`` and ``gtFine``.
        split: ``train``, ``val``, ``test``; with ``gtCoarse`` also ``train_extra``.
        transform: joint transform of picture and mask.
        annotation: ``gtFine``, or ``gtCoarse`` for the coarse polygons.

    Raises:
        UserError: a folder is missing, or pictures have no label.
    """

    categories = CATEGORIES

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        transform: Transform | None = None,
        annotation: Literal["gtFine", "gtCoarse"] = "gtFine",
    ) -> None:
        pictures, labels = f"leftImg8bit/{split}", f"{annotation}/{split}"
        base = find_base(root, "Cityscapes", [pictures, labels])
        images = list_files(base / pictures, "*/*_leftImg8bit.png")
        names = [path.name.removesuffix("_leftImg8bit.png") for path in images]
        stems = [
            base / labels / image.parent.name / f"{name}_{annotation}_label"
            for image, name in zip(images, names, strict=True)
        ]
        masks = _masks(stems, base / labels)
        check_pairs(images, masks, f"Cityscapes {split}")
        self.published_count = {"train": 2975, "val": 500, "train_extra": 19998}.get(split)
        super().__init__(images, masks, CLASSES, transform, names)

    def read_mask(self, path: Path) -> Tensor:
        """Train ids of a ``labelIds`` or ``labelTrainIds`` file."""
        if path.name.endswith("_labelTrainIds.png"):
            return translate(read_mask(path).numpy(), _FROM_TRAIN_IDS, path, "trainIds")
        return translate(read_mask(path).numpy(), _FROM_LABEL_IDS, path, "labelIds (0 to 33)")


def cityscapes_coarse(
    root: str | os.PathLike[str], split: str = "train", transform: Transform | None = None
) -> Cityscapes:
    """Cityscapes with ``gtCoarse`` labels for training and ``gtFine`` ones for everything else.

    ``train`` is ``train_extra``, the 19,998 pictures that have no fine label, where that is
    unpacked; else the coarse labels of ``train``.
    """
    if split != "train":
        return Cityscapes(root, split, transform)
    extra = (Path(root) / "gtCoarse" / "train_extra").is_dir()
    return Cityscapes(root, "train_extra" if extra else "train", transform, "gtCoarse")


def _masks(stems: list[Path], folder: Path) -> list[Path]:
    """The label files ``STEM + TrainIds.png`` if all are there, else ``STEM + Ids.png``."""
    found = {path.name for path in folder.glob("*/*_label*Ids.png")}
    if stems and not found and next(folder.glob("*/*.png"), None):
        raise UserError(
            f"'{folder}' holds no *_labelIds.png and no *_labelTrainIds.png, only other files; "
            "extract the whole archive of labels again"
        )
    prepared = [stem.with_name(f"{stem.name}TrainIds.png") for stem in stems]
    if stems and all(path.name in found for path in prepared):
        return prepared
    originals = [stem.with_name(f"{stem.name}Ids.png") for stem in stems]
    return originals if any(path.name in found for path in originals) else prepared
