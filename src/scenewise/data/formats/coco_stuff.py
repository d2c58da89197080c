"""COCO-Stuff: 80 things and 91 kinds of stuff, as 10,000 or 164,000 images.

H. Caesar, J. Uijlings, V. Ferrari, "COCO-Stuff: Thing and Stuff Classes in Context", CVPR 2018.
"""

from pathlib import Path
from typing import ClassVar

from torch import Tensor

from scenewise.classes import class_table
from scenewise.data.formats.find_files import (
    Pairs,
    PublishedDataset,
    Signs,
    find_base,
    list_files,
    read_names,
)
from scenewise.data.formats.label_maps import id_table, translate
from scenewise.data.formats.matlab import id_map, read_mat
from scenewise.data.images import read_mask
from scenewise.errors import UserError

# Labels 1 to 182 without the 11 COCO things that have no annotation. Colours of things are those of
# COCO's panoptic API, colours of stuff those of the COCO-Stuff API.
_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
_LABELS = tuple(k for k in range(1, 183) if k not in _UNUSED)
CLASSES = class_table(
    """
    dc143c person
    770b20 bicycle
    00008e car
    0000e6 motorcycle
    6a00e4 airplane
    003c64 bus
    005064 train
    000046 truck
    0000c0 boat
    faaa1e traffic light
    64aa1e fire hydrant
    dcdc00 stop sign
    af74af parking meter
    fa001e bench
    a52a2a bird
    ff4dff cat
    00e2fc dog
    b6b6ff horse
    005200 sheep
    78a69d cow
    6e4c00 elephant
    ae39ff bear
    c76400 zebra
    480076 giraffe
    ffb3f0 backpack
    007d5c umbrella
    d10097 handbag
    bcd0b6 tie
    00dcb0 suitcase
    ff63a4 frisbee
    5c0049 skis
    8581ff snowboard
    4eb4ff sports ball
    00e400 kite
    aefff3 baseball bat
    2d59ff baseball glove
    868667 skateboard
    9194ae surfboard
    ffd0ba tennis racket
    c5e2ff bottle
    ab8601 wine glass
    6d3f36 cup
    cf8aff fork
    97005f knife
    09503d spoon
    546933 bowl
    4a4169 banana
    a6c466 apple
    d0c3d2 sandwich
    ff6d41 orange
    008f95 broccoli
    b300c2 carrot
    d1636a hot dog
    057900 pizza
    e3ffcd donut
    93bad0 cake
    994501 chair
    035fa1 couch
    a3ff00 potted plant
    7700aa bed
    00b6c7 dining table
    00a578 toilet
    b78258 tv
    5f2000 laptop
    827287 mouse
    6e8185 remote
    a64a76 keyboard
    db8eb9 cell phone
    4fd272 microwave
    b25a3e oven
    41460f toaster
    7fa773 sink
    3b696a refrigerator
    8e6c2d book
    c4ac00 clock
    5f3650 vase
    804cff scissors
    c93901 teddy bear
    f6007a hair drier
    bfa2d0 toothbrush
    36b276 banner
    0055b2 blanket
    96b216 branch
    6b0000 bridge
    000059 building-other
    0075b2 bush
    30b27d cabinet
    b27500 cage
    0000b2 cardboard
    50b25d carpet
    860000 ceiling-other
    16b296 ceiling-tile
    b25700 cloth
    b29200 clothes
    0006b2 clouds
    00007d counter
    0036b2 cupboard
    0085b2 curtain
    70b23d desk-stuff
    b28300 dirt
    001eb2 door-stuff
    b26d00 fence
    b22400 floor-marble
    0095b2 floor-other
    0aada3 floor-stone
    0000b2 floor-tile
    b27c00 floor-wood
    b26600 flower
    009db0 fog
    b22b00 food-other
    0000aa fruit
    b25f00 furniture-other
    000086 grass
    43b26a gravel
    63b24a ground-other
    0026b2 hill
    56b256 house
    10b29d leaves
    000098 light
    b21500 mat
    007db2 metal
    003db2 mirror-stuff
    b23300 moss
    006db2 mountain
    8ab223 mud
    000eb2 napkin
    0065b2 net
    000074 paper
    002eb2 pavement
    2ab283 pillow
    0000a1 plant-other
    b24900 plastic
    00008f platform
    740000 playingfield
    1db290 railing
    aa0700 railroad
    9db210 river
    590000 road
    90b21d rock
    4ab263 roof
    76b236 rug
    5db250 salad
    980000 sand
    b29a00 sea
    620000 shelf
    b24100 sky-other
    3db270 skyscraper
    aab003 snow
    6ab243 solid-other
    b20e00 stairs
    a3b20a stone
    03a5aa straw
    7d0000 structural-other
    b0a800 table
    b28b00 tent
    b21d00 textile-other
    23b28a towel
    008db2 tree
    000062 vegetable
    83b22a wall-brick
    004db2 wall-concrete
    00006b wall-other
    005db2 wall-panel
    8f0000 wall-stone
    b23a00 wall-tile
    a10000 wall-wood
    0045b2 water-other
    b2a100 waterdrops
    b25000 window-blind
    0016b2 window-other
    7db230 wood
    """
)
# PNG pixel maps hold label - 1 and 255 for unlabelled; .mat files hold the label and 0.
_FROM_PNG = id_table({label - 1: k for k, label in enumerate(_LABELS)})
_FROM_MAT = id_table({label: k for k, label in enumerate(_LABELS)}, ignored=[0])


class CocoStuff(PublishedDataset):
    """COCO-Stuff 164k or 10k, whichever is found under ``root``; 171 classes, 255 ignored.

    164k: ``images/{train2017,val2017}/*.jpg`` with the stuff-thing pixel maps of the same names
    in ``annotations/{train2017,val2017}/*.png`` or ``stuffthingmaps/...``. 10k (version 1.1):
    ``imageLists/{train,test}.txt``, ``images/*.jpg``, ``annotations/*.mat``; its test list is
    ``val`` here, because published scores are measured on it. Splits: ``train``, ``val``; with 10k
    also ``test``, the same list as ``val``.
    """

    title = "COCO-Stuff"
    published_classes = CLASSES
    published_counts: ClassVar = {
        "train2017": 118287, "val2017": 5000, "train of 10k": 9000, "val of 10k": 1000
    }  # fmt: skip
    signs: ClassVar[Signs] = (
        (
            r"(dataset/)?(images/)?(train|val)2017/\d{12}\.jpg",
            r"(dataset/)?(annotations/)?(stuffthingmaps|annotations)/(train|val)2017/\d{12}\.png",
        ),
        (r"(dataset/)?imageLists/train\.txt", r"(dataset/)?annotations/COCO_train2014_\d{12}\.mat"),
    )

    def find(self, root: Path, split: str) -> Pairs:
        for base in (root, root / "dataset"):
            if (base / "imageLists").is_dir():
                self.part = f"{split} of 10k"
                return _find_10k(base, split)
        self.part = f"{split}2017"
        return _find_164k(root, self.part)

    def read_mask(self, path: Path) -> Tensor:
        """Class ids of a pixel map or of the field ``S`` of a MATLAB file."""
        if path.suffix == ".png":
            expected = "COCO-Stuff pixel map ids (0 to 181, 255)"
            return translate(read_mask(path).numpy(), _FROM_PNG, path, expected)
        variables = read_mat(path)
        if "names" in variables and max(variables["names"].dims, default=0) == 172:
            raise UserError(
                f"label '{path}' is of COCO-Stuff 10k version 1.0, whose ids differ; extract "
                "version 1.1 (cocostuff-10k-v1.1.zip)"
            )
        ids = id_map(variables, path, "S")
        return translate(ids, _FROM_MAT, path, "COCO-Stuff 10k labels (0 to 182)")


def _find_164k(root: Path, part: str) -> Pairs:
    def first(*folders: str) -> str:  # the first that exists, else the last
        return next((folder for folder in folders if (root / folder).is_dir()), folders[-1])

    image_folder = first(f"images/{part}", part, f"images/{part}")
    maps = f"stuffthingmaps/{part}"
    label_folder = first(maps, f"annotations/{maps}", f"annotations/{part}")
    others = f"'{maps}', nor the 'imageLists' of COCO-Stuff 10k"
    base = find_base(root, "COCO-Stuff", [image_folder, label_folder], [".", "dataset"], others)
    images = list_files(base / image_folder, "*.jpg")
    return images, [base / label_folder / f"{path.stem}.png" for path in images]


def _find_10k(base: Path, split: str) -> Pairs:
    part = "test" if split == "val" else split
    find_base(base, "COCO-Stuff 10k", [f"imageLists/{part}.txt", "images", "annotations"])
    names = read_names(base / "imageLists" / f"{part}.txt")
    images = [base / "images" / f"{name}.jpg" for name in names]
    return images, [base / "annotations" / f"{name}.mat" for name in names]
