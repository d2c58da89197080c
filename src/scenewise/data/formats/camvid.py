"""CamVid: 701 frames of four drives through Cambridge, 960 x 720, 32 classes or 11.

G. Brostow, J. Fauqueur, R. Cipolla, "Semantic object classes in video", Pattern Recognition
Letters 30(2), 2009; the 11 classes, the 480 x 360 copies and the split are those of SegNet.
"""

from pathlib import Path
from typing import ClassVar

from torch import Tensor

from scenewise.classes import class_table
from scenewise.data.formats.find_files import Pairs, PublishedDataset, Signs, find_base, list_files
from scenewise.data.formats.label_maps import (
    color_table,
    id_table,
    is_color,
    read_colors,
    translate,
)
from scenewise.data.images import read_mask

CLASSES = class_table(
    """
    808080 sky
    800000 building
    c0c080 pole
    804080 road
    3c28de pavement
    808000 tree
    c08080 sign_symbol
    404080 fence
    400080 car
    404000 pedestrian
    0080c0 bicyclist
    """
)
# The publisher's label_colors.txt without Void (black), which is ignored.
_RAW_CLASSES = class_table(
    """
    408040 Animal
    c00080 Archway
    0080c0 Bicyclist
    008040 Bridge
    800000 Building
    400080 Car
    4000c0 CartLuggagePram
    c08040 Child
    c0c080 Column_Pole
    404080 Fence
    8000c0 LaneMkgsDriv
    c00040 LaneMkgsNonDriv
    808040 Misc_Text
    c000c0 MotorcycleScooter
    804040 OtherMoving
    40c080 ParkingBlock
    404000 Pedestrian
    804080 Road
    8080c0 RoadShoulder
    0000c0 Sidewalk
    c08080 SignSymbol
    808080 Sky
    4080c0 SUVPickupTruck
    000040 TrafficCone
    004040 TrafficLight
    c04080 Train
    808000 Tree
    c080c0 Truck_Bus
    400040 Tunnel
    c0c000 VegetationMisc
    40c000 Wall
    """
)
_MEMBERS = {
    "sky": "Sky",
    "building": "Archway Bridge Building Tunnel Wall",
    "pole": "Column_Pole TrafficCone",
    "road": "LaneMkgsDriv LaneMkgsNonDriv Road",
    "pavement": "ParkingBlock RoadShoulder Sidewalk",
    "tree": "Tree VegetationMisc",
    "sign_symbol": "Misc_Text SignSymbol TrafficLight",
    "fence": "Fence",
    "car": "Car OtherMoving SUVPickupTruck Train Truck_Bus",
    "pedestrian": "Animal CartLuggagePram Child Pedestrian",
    "bicyclist": "Bicyclist MotorcycleScooter",
}
# For each of the 31 classes, its class among the 11.
_CLASS_OF = tuple(
    next(k for k, name in enumerate(CLASSES.names) if raw in _MEMBERS[name].split())
    for raw in _RAW_CLASSES.names
)
_NAME = r"(0001TP|0006R0|0016E5|Seq05VD)_\w+"  # the four drives
_FRAME = rf"(train|val|test)/{_NAME}\.png"
_COLOR_SIGNS = (
    (_FRAME, rf"\w+_labels/{_NAME}\.png"),
    (rf"701_StillsRaw_full/{_NAME}\.png", rf"LabeledApproved_full/{_NAME}\.png"),
)
_VOID = (0, 0, 0)  # the ignored 32nd class
_FROM_SEGNET = id_table({k: k for k in range(11)}, ignored=[11, 255])
_TO_11 = id_table(dict(enumerate(_CLASS_OF)))


class CamVid(PublishedDataset):
    """CamVid in one of its three common layouts, the first of these that is found under ``root``:

    - ``SPLIT/*.png`` with ``SPLITannot/*.png`` (SegNet): ids 0 to 10, void 11;
    - ``SPLIT/*.png`` with ``SPLIT_labels/*_L.png``: the publisher's colours;
    - ``701_StillsRaw_full/*.png`` with ``LabeledApproved_full/*_L.png``, as published: colours.
      The split is then SegNet's: 367 frames to train, 101 to validate, 233 to test.

    Whatever the layout, labels that are colour images are read as colours. Splits: ``train``,
    ``val``, ``test``.
    """

    title = "CamVid"
    published_classes = CLASSES
    published_counts: ClassVar = {"train": 367, "val": 101, "test": 233}
    signs: ClassVar[Signs] = ((_FRAME, rf"\w+annot/{_NAME}\.png"), *_COLOR_SIGNS)

    def find(self, root: Path, split: str) -> Pairs:
        if (root / "701_StillsRaw_full").is_dir() or (root / "LabeledApproved_full").is_dir():
            find_base(root, "CamVid", ["701_StillsRaw_full", "LabeledApproved_full"])
            frames = list_files(root / "701_StillsRaw_full", "*.png")
            images = [path for path in frames if _segnet_split(path.stem) == split]
            return images, [root / "LabeledApproved_full" / f"{path.stem}_L.png" for path in images]
        labels, ending = f"{split}annot", ""
        if (root / f"{split}_labels").is_dir():
            labels, ending = f"{split}_labels", "_L"
        others = f"'{split}_labels', nor '701_StillsRaw_full' with 'LabeledApproved_full'"
        find_base(root, "CamVid", [split, labels], instead=others)
        images = list_files(root / split, "*.png")
        return images, [root / labels / f"{path.stem}{ending}.png" for path in images]

    def read_mask(self, path: Path) -> Tensor:
        """Class ids of a label file that holds colours or SegNet's 12 ids."""
        if is_color(path) or self.classes is _RAW_CLASSES:
            table = color_table(_RAW_CLASSES.colors, (_VOID,))
            raw = read_colors(path, table, "CamVid's 32 colours")
            if self.classes is _RAW_CLASSES:
                return raw
            return translate(raw.numpy(), _TO_11, path, "CamVid's classes")
        return translate(read_mask(path).numpy(), _FROM_SEGNET, path, "SegNet's ids (0 to 11)")


class CamVid32(CamVid):
    """CamVid with the publisher's 31 classes and the ignored void; needs colour labels."""

    published_classes = _RAW_CLASSES
    signs: ClassVar[Signs] = _COLOR_SIGNS


def _segnet_split(stem: str) -> str:
    """The split of the published frame ``stem`` in SegNet's copy.

    >>> [_segnet_split(stem) for stem in ("0016E5_08001", "0001TP_008550", "0006R0_f00930")]
    ['val', 'test', 'train']
    """
    drive, _, frame = stem.partition("_")
    if drive == "Seq05VD" or (drive == "0001TP" and frame > "008520"):
        return "test"
    return "val" if drive == "0016E5" and "07959" <= frame <= "08159" else "train"
