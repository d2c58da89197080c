"""Cityscapes: streets of 50 cities, 2048 x 1024, 19 classes out of 34 labels.

M. Cordts and others, "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016.
"""

from pathlib import Path
from typing import ClassVar

from torch import Tensor
from torchvision.datasets import Cityscapes as TorchvisionCityscapes

from scenewise.classes import CITYSCAPES
from scenewise.data.formats.find_files import Pairs, PublishedDataset, Signs, find_base, list_files
from scenewise.data.formats.label_maps import id_table, translate
from scenewise.data.images import read_mask
from scenewise.errors import UserError

CLASSES = CITYSCAPES
_LABELS = TorchvisionCityscapes.classes
_TRAINED = sorted((x for x in _LABELS if 0 <= x.train_id < 255), key=lambda x: x.train_id)
# Categories 1 to 7 of the evaluation server (0 is void), and the classes of each.
CATEGORIES = {
    name: tuple(x.train_id for x in _TRAINED if x.category == name)
    for name in ("flat", "construction", "object", "nature", "sky", "human", "vehicle")
}
SERVER_IDS = tuple(x.id for x in _TRAINED)  # what the test server expects for classes 0 to 18
_FROM_LABEL_IDS = id_table(
    {x.id: x.train_id for x in _TRAINED},
    ignored=[x.id for x in _LABELS if x.id >= 0 and x.train_id in (-1, 255)],
)
_FRAME = r"leftImg8bit/\w+/[^/]+/[a-z-]+_\d{6}_\d{6}_leftImg8bit\.png"
_FROM_TRAIN_IDS = id_table({k: k for k in range(19)})


class Cityscapes(PublishedDataset):
    """``leftImg8bit/SPLIT/CITY`` with ``gtFine/SPLIT/CITY``, as the two archives unpack.

    ``*_labelTrainIds.png`` are read where every image has one, else ``*_labelIds.png``, whose 34
    ids become 19 classes and the ignored 255. Splits: ``train``, ``val``, and ``test``, whose
    published labels are dummies.
    """

    title = "Cityscapes"
    published_classes = CLASSES
    published_counts: ClassVar = {"train": 2975, "val": 500, "train_extra": 19998}
    image_ending = "_leftImg8bit"
    signs: ClassVar[Signs] = (
        (_FRAME, r"gtFine/(train|val)/[^/]+/\w+_gtFine_label(Train)?Ids\.png"),
    )
    categories = CATEGORIES

    def find(self, root: Path, split: str) -> Pairs:
        return _find(root, split, "gtFine")

    def read_mask(self, path: Path) -> Tensor:
        """Train ids of a ``labelIds`` or ``labelTrainIds`` file."""
        if path.name.endswith("_labelTrainIds.png"):
            return translate(read_mask(path).numpy(), _FROM_TRAIN_IDS, path, "trainIds")
        return translate(read_mask(path).numpy(), _FROM_LABEL_IDS, path, "labelIds (0 to 33)")


class CityscapesCoarse(Cityscapes):
    """Cityscapes with ``gtCoarse`` labels for training and ``gtFine`` ones for all other splits.

    ``train`` is ``train_extra``, the 19,998 images without fine labels, if it is extracted; else
    the coarse labels of ``train``.
    """

    signs: ClassVar[Signs] = (
        (_FRAME, r"gtCoarse/train(_extra)?/[^/]+/\w+_gtCoarse_label(Train)?Ids\.png"),
    )

    def find(self, root: Path, split: str) -> Pairs:
        if split != "train":
            return super().find(root, split)
        self.part = "train_extra" if (root / "gtCoarse" / "train_extra").is_dir() else "train"
        return _find(root, self.part, "gtCoarse")


def _find(root: Path, split: str, annotation: str) -> Pairs:
    """Images of ``split``, and their labels in the folder ``annotation``."""
    folder = f"{annotation}/{split}"
    base = find_base(root, "Cityscapes", [f"leftImg8bit/{split}", folder])
    images = list_files(base / "leftImg8bit" / split, "*/*_leftImg8bit.png")
    stems = [
        base / folder / path.parent.name / path.stem.replace("_leftImg8bit", f"_{annotation}_label")
        for path in images
    ]
    return images, _masks(stems, base / folder)


def _masks(stems: list[Path], folder: Path) -> list[Path]:
    """The label files ``STEM + TrainIds.png`` if all exist, else ``STEM + Ids.png``."""
    names = {path.name for path in folder.glob("*/*_label*Ids.png")}
    if stems and not names and next(folder.glob("*/*.png"), None):
        raise UserError(
            f"'{folder}' holds other files but no *_labelIds.png or *_labelTrainIds.png; extract "
            "the whole archive of labels again"
        )
    prepared = [stem.with_name(f"{stem.name}TrainIds.png") for stem in stems]
    if stems and all(path.name in names for path in prepared):
        return prepared
    originals = [stem.with_name(f"{stem.name}Ids.png") for stem in stems]
    return originals if any(path.name in names for path in originals) else prepared
