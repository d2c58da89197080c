"""PASCAL-Context: every pixel of the VOC 2010 images labelled, 59 classes and background.

R. Mottaghi and others, "The Role of Context for Object Detection and Semantic Segmentation in the
Wild", CVPR 2014. Classes are in the order of their ids among the publisher's 459 labels, as in
most public code and weights; the publisher's own list of 59 has another order, which is mapped.
"""

from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from scenewise.classes import Classes
from scenewise.data.formats.find_files import Pairs, PublishedDataset, Signs, find_base, read_names
from scenewise.data.formats.label_maps import id_table, translate, voc_colors
from scenewise.data.formats.matlab import id_map, read_mat
from scenewise.data.formats.regions import decode_runs
from scenewise.data.images import read_mask
from scenewise.errors import UserError
from scenewise.files import parse_json

# The 59 classes with their ids among the 459 labels of the .mat files and of the JSON file.
_LABELS = {
    "aeroplane": 2,
    "bag": 9,
    "bed": 18,
    "bedclothes": 19,
    "bench": 22,
    "bicycle": 23,
    "bird": 25,
    "boat": 31,
    "book": 33,
    "bottle": 34,
    "building": 44,
    "bus": 45,
    "cabinet": 46,
    "car": 59,
    "cat": 65,
    "ceiling": 68,
    "chair": 72,
    "cloth": 80,
    "computer": 85,
    "cow": 98,
    "cup": 104,
    "curtain": 105,
    "dog": 113,
    "door": 115,
    "fence": 144,
    "floor": 158,
    "flower": 159,
    "food": 162,
    "grass": 187,
    "ground": 189,
    "horse": 207,
    "keyboard": 220,
    "light": 232,
    "motorbike": 258,
    "mountain": 259,
    "mouse": 260,
    "person": 284,
    "plate": 295,
    "platform": 296,
    "pottedplant": 308,
    "road": 324,
    "rock": 326,
    "sheep": 347,
    "shelves": 349,
    "sidewalk": 354,
    "sign": 355,
    "sky": 360,
    "snow": 366,
    "sofa": 368,
    "table": 397,
    "track": 415,
    "train": 416,
    "tree": 420,
    "truck": 424,
    "tvmonitor": 427,
    "wall": 440,
    "water": 445,
    "window": 454,
    "wood": 458,
}
# The order of 59_labels.txt, which the PNG files in 59_context_labels use, counting from 1.
_PUBLISHED_ORDER = """
    aeroplane bicycle bird boat bottle bus car cat chair cow table dog horse motorbike person
    pottedplant sheep sofa train tvmonitor bag bed bench book building cabinet ceiling cloth
    computer cup door fence floor flower food grass ground keyboard light mountain mouse curtain
    platform sign plate road rock shelves sidewalk sky snow bedclothes track tree truck wall water
    window wood
"""

# No colours were published; these are by the rule of VOC's development kit.
CLASSES = Classes(("background", *_LABELS), voc_colors(60))
_CLASSES_59 = Classes(tuple(_LABELS), voc_colors(60)[1:])

_FROM_PNG = id_table(
    {0: 0} | {k: CLASSES.names.index(name) for k, name in enumerate(_PUBLISHED_ORDER.split(), 1)}
)
_FROM_CONVERTED = id_table({k: k for k in range(60)})
# The labels of the 459 that are not among the 59 are background.
_FROM_459 = id_table(
    dict.fromkeys(range(460), 0) | {label: k for k, label in enumerate(_LABELS.values(), 1)},
    ignored=[],
    size=460,
)
_LARGEST = 2**24  # pixels of an image in the JSON file; a few bytes may claim more
_JSON = "trainval_merged.json"
_SOURCES = ("59_context_labels", "SegmentationClassContext", "trainval", _JSON)


class PascalContext(PublishedDataset):
    """VOC 2010 images with PASCAL-Context labels, of the first of these that is found:

    - ``59_context_labels/*.png``, the publisher's label images;
    - ``SegmentationClassContext/*.png``, what common converters of the JSON file write;
    - ``trainval/*.mat``, the publisher's maps of 459 labels;
    - ``trainval_merged.json``, the masks of the PASCAL in Detail API. Reading it takes long and
      much memory; ``scenewise prepare`` does it once.

    The split is read from the JSON file where the labels are, else from
    ``ImageSets/SegmentationContext/SPLIT.txt`` or ``ImageSets/Main/SPLIT.txt``. ``root`` holds
    ``VOCdevkit``, or is ``VOC2010``; labels may be in either. There are 60 classes, the first is
    the background. Splits: ``train``, ``val``, ``trainval``.
    """

    title = "PASCAL-Context"
    published_classes = CLASSES
    published_counts: ClassVar = {
        "train": 4998, "val": 5105, "trainval": 10103,
        "train of the JSON file": 4996, "val of the JSON file": 5104,
    }  # fmt: skip
    signs: ClassVar[Signs] = tuple(
        (r"(.*/)?JPEGImages/20\d\d_\d{6}\.jpg", labels)
        for labels in (
            r"(.*/)?(59_context_labels|SegmentationClassContext)/20\d\d_\d{6}\.png",
            r"(.*/)?trainval/20\d\d_\d{6}\.mat",
            r"(.*/)?trainval_merged\.json",
        )
    )

    def find(self, root: Path, split: str) -> Pairs:
        places = (".", "VOC2010", "VOCdevkit/VOC2010")
        base = find_base(root, "PASCAL VOC 2010", ["JPEGImages"], places)
        labels = _labels(root, base)
        if labels.name == _JSON:
            names = _json_names(labels, split)
            self.part = f"{split} of the JSON file"
        else:
            names = read_names(_list(base, split))
        ending = {"trainval": ".mat", _JSON: ""}.get(labels.name, ".png")
        images = [base / "JPEGImages" / f"{name}.jpg" for name in names]
        return images, [labels / f"{name}{ending}" for name in names]

    def read_mask(self, path: Path) -> Tensor:
        """Class ids of a label image, a MATLAB file, or ``trainval_merged.json/NAME``."""
        if path.parent.name == _JSON:
            mask = _json_mask(path.parent, path.name)
        elif path.suffix == ".mat":
            ids = id_map(read_mat(path), path, "LabelMap")
            mask = translate(ids, _FROM_459, path, "PASCAL-Context labels (0 to 459)")
        else:
            table = _FROM_PNG if path.parent.name == "59_context_labels" else _FROM_CONVERTED
            expected = "PASCAL-Context ids (0 to 59)"
            mask = translate(read_mask(path).numpy(), table, path, expected)
        if self.classes is CLASSES:
            return mask
        return torch.where((mask == 0) | (mask == 255), 255, mask - 1).to(torch.uint8)


class PascalContext59(PascalContext):
    """PASCAL-Context without background: 59 classes, all other pixels are ignored."""

    published_classes = _CLASSES_59


def _json_names(path: Path, split: str) -> list[str]:
    """The images of a split in ``trainval_merged.json``."""
    images, _ = _load_json(path, path.stat().st_mtime_ns)
    return [name for name, (phase, *_) in images.items() if split in (phase, "trainval")]


def _json_mask(path: Path, name: str) -> Tensor:
    """Ids 0 to 59 of image ``name`` in ``trainval_merged.json``: (H, W), uint8.

    Where objects overlap, the later one in the file wins.

    Raises:
        UserError: the image or a mask of it is broken in the file.
    """
    images, objects = _load_json(path, path.stat().st_mtime_ns)
    try:
        _, height, width = images[name]
        if not 0 < height * width <= _LARGEST:
            raise ValueError(f"an image of {height} x {width} pixels")
        ids = np.zeros((height, width), dtype=np.int32)
        for label, counts in objects[name]:
            ids[decode_runs(counts, height, width)] = label
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"the masks of '{name}' in '{path}' are broken ({error}); download the file again"
        ) from error
    return translate(ids, _FROM_459, path / name, "PASCAL-Context labels (0 to 459)")


_Images = dict[str, tuple[str, int, int]]
_Objects = dict[str, list[tuple[int, Any]]]


@lru_cache(maxsize=1)
def _load_json(path: Path, modified: int) -> tuple[_Images, _Objects]:
    """By image: (phase, height, width), and (label, run lengths) of its objects."""
    try:
        content = parse_json(path.read_bytes())
        by_id = {image["image_id"]: image for image in content["images"]}
        images = {
            Path(x["file_name"]).stem: (x["phase"], int(x["height"]), int(x["width"]))
            for x in by_id.values()
        }
        objects: _Objects = defaultdict(list)
        for entry in content["annos_segmentation"]:
            name = Path(by_id[entry["image_id"]]["file_name"]).stem
            objects[name].append((int(entry["category_id"]), entry["segmentation"]["counts"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(
            f"cannot read '{path}' ({type(error).__name__}: {error}); download the file again"
        ) from error
    return images, objects


def _labels(root: Path, base: Path) -> Path:
    for place in (base, root):
        for source in _SOURCES:
            if (place / source).exists():
                return place / source
    raise UserError(
        f"PASCAL-Context labels not found in '{base}' or '{root}' (looked for "
        f"{', '.join(_SOURCES)}); extract the labels there"
    )


def _list(base: Path, split: str) -> Path:
    lists = [base / "ImageSets" / kind / f"{split}.txt" for kind in ("SegmentationContext", "Main")]
    for path in lists:
        if path.exists():
            return path
    raise UserError(
        f"the list of PASCAL-Context {split} is missing (looked for '{lists[0]}' and "
        f"'{lists[1]}'); extract the whole VOC 2010 archive"
    )
