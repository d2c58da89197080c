"""PASCAL-Context: every pixel of the VOC 2010 pictures labelled, 59 classes and background.

R. Mottaghi and others, "The Role of Context for Object Detection and Semantic Segmentation in the
Wild", CVPR 2014. Classes stand in the order of their ids among the publisher's 459 labels, as in
most public code and weights; the publisher's own list of 59 has another order, which is mapped.
"""

import os
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scenewise.classes import Classes
from scenewise.data.datasets import PairedDataset, Transform
from scenewise.data.formats.find_files import check_pairs, find_base, read_names
from scenewise.data.formats.label_maps import id_table, translate, voc_colors
from scenewise.data.formats.matlab import id_map, read_mat
from scenewise.data.images import read_mask
from scenewise.errors import UserError
from scenewise.files import parse_json

# The 59 classes with their ids among the 459 labels of the .mat files and of the JSON file.
LABELS = {
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
_ORDER = """
    aeroplane bicycle bird boat bottle bus car cat chair cow table dog horse motorbike person
    pottedplant sheep sofa train tvmonitor bag bed bench book building cabinet ceiling cloth
    computer cup door fence floor flower food grass ground keyboard light mountain mouse curtain
    platform sign plate road rock shelves sidewalk sky snow bedclothes track tree truck wall water
    window wood
"""
PUBLISHED_ORDER = tuple(_ORDER.split())

# No colours were published; these are the development kit's, 0 for background.
CLASSES = Classes(("background", *LABELS), voc_colors(60))
CLASSES_59 = Classes(tuple(LABELS), voc_colors(60)[1:])

_NAMES = list(LABELS)
_FROM_PNG = id_table({0: 0} | {k + 1: _NAMES.index(n) + 1 for k, n in enumerate(PUBLISHED_ORDER)})
_FROM_CONVERTED = id_table({k: k for k in range(60)})
# Of the 459 labels, those that are none of the 59 are background.
_FROM_459 = id_table(
    dict.fromkeys(range(460), 0) | {label: k + 1 for k, label in enumerate(LABELS.values())},
    ignored=[],
    size=460,
)
LARGEST = 2**24  # pixels of a picture in it
_JSON = "trainval_merged.json"
_SOURCES = ("59_context_labels", "SegmentationClassContext", "trainval", _JSON)


class PascalContext(PairedDataset):
    """VOC 2010 pictures with PASCAL-Context labels, of the first of these that is found:

    - ``59_context_labels/*.png``, the publisher's label pictures;
    - ``SegmentationClassContext/*.png``, what common converters of the JSON file write;
    - ``trainval/*.mat``, the publisher's maps of 459 labels;
    - ``trainval_merged.json``, the masks of the PASCAL in Detail API. Reading it takes long and
      much memory; ``scenewise prepare`` does it once.

    The split is read from the JSON file where the labels are, else from
    ``ImageSets/SegmentationContext/SPLIT.txt`` or ``ImageSets/Main/SPLIT.txt``.

    Args:
        root: the folder that holds ``VOCdevkit``, or ``VOC2010`` itself. The labels lie in
            either.
        split: ``train``, ``val`` or ``trainval``.
        transform: joint transform of picture and mask.
        background: 60 classes, the first being everything that is none of the 59; without it,
            59 classes and those pixels are ignored.

    Raises:
        UserError: a folder or list is missing, or pictures have no label.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        transform: Transform | None = None,
        background: bool = True,
    ) -> None:
        base = find_base(
            root, "PASCAL VOC 2010", ["JPEGImages"], (".", "VOC2010", "VOCdevkit/VOC2010")
        )
        labels = _labels(Path(root), base)
        if labels.name == _JSON:
            names = json_names(labels, split)
        else:
            names = read_names(_list(base, split))
        ending = {"trainval": ".mat", _JSON: ""}.get(labels.name, ".png")
        images = [base / "JPEGImages" / f"{name}.jpg" for name in names]
        masks = [labels / f"{name}{ending}" for name in names]
        check_pairs(images, images if labels.name == _JSON else masks, f"PASCAL-Context {split}")
        super().__init__(images, masks, CLASSES if background else CLASSES_59, transform)
        self.published_count = {"train": 4998, "val": 5105, "trainval": 10103}.get(split)
        if labels.name == _JSON:
            self.published_count = {"train": 4996, "val": 5104}.get(split)

    def read_mask(self, path: Path) -> Tensor:
        """Class ids of a label picture, a MATLAB file, or ``trainval_merged.json/NAME``."""
        if path.parent.name == _JSON:
            mask = json_mask(path.parent, path.name)
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


def pascal_context_59(
    root: str | os.PathLike[str], split: str = "train", transform: Transform | None = None
) -> PascalContext:
    """PASCAL-Context without background: 59 classes, everything else is ignored."""
    return PascalContext(root, split, transform, background=False)


def decode_rle(counts: str | bytes | list[int], height: int, width: int) -> NDArray[np.bool_]:
    """A mask (H, W) from COCO's run lengths, compressed to text or as a list.

    Runs go down the columns and start with a run of zeros. In text, each length is a sequence of
    characters of 5 bits and a "more" bit, from 48 up; from the third on it is the difference to
    the one before the last.

    Raises:
        ValueError: the runs do not fill the mask exactly.

    >>> decode_rle([1, 2, 3], 2, 3).astype(int).tolist()
    [[0, 1, 0], [1, 0, 0]]
    """
    runs = counts if isinstance(counts, list) else _unpack(counts)
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(f"run lengths do not fill {height} x {width} pixels")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def _unpack(text: str | bytes) -> list[int]:
    data = text.encode("ascii") if isinstance(text, str) else text
    runs: list[int] = []
    value = shift = 0
    for byte in data:
        bits = byte - 48
        if not 0 <= bits < 64:
            raise ValueError("run lengths hold a character that cannot occur")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


def json_names(path: Path, split: str) -> list[str]:
    """The pictures of a split in ``trainval_merged.json``."""
    images, _ = _load_json(path, path.stat().st_mtime_ns)
    return [name for name, (phase, *_) in images.items() if split in (phase, "trainval")]


def json_mask(path: Path, name: str) -> Tensor:
    """Ids 0 to 59 of picture ``name`` in ``trainval_merged.json``: (H, W), uint8.

    Where objects overlap, the one that stands later in the file wins.

    Raises:
        UserError: the picture or a mask of it is broken in the file.
    """
    images, objects = _load_json(path, path.stat().st_mtime_ns)
    try:
        _, height, width = images[name]
        if not 0 < height * width <= LARGEST:
            raise ValueError(f"a picture of {height} x {width} pixels")
        ids = np.zeros((height, width), dtype=np.int32)
        for label, counts in objects[name]:
            ids[decode_rle(counts, height, width)] = label
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"the masks of '{name}' in '{path}' are broken ({error}); download the file again"
        ) from error
    return translate(ids, _FROM_459, path / name, "PASCAL-Context labels (0 to 459)")


Images = dict[str, tuple[str, int, int]]
Objects = dict[str, list[tuple[int, Any]]]


@lru_cache(maxsize=1)
def _load_json(path: Path, modified: int) -> tuple[Images, Objects]:
    """By picture: (phase, height, width), and (label, run lengths) of its objects."""
    try:
        content = parse_json(path.read_bytes())
        by_id = {image["image_id"]: image for image in content["images"]}
        images = {
            Path(x["file_name"]).stem: (x["phase"], int(x["height"]), int(x["width"]))
            for x in by_id.values()
        }
        objects: Objects = defaultdict(list)
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
        f"no PASCAL-Context labels in '{base}' or '{root}': looked for "
        + ", ".join(_SOURCES)
        + "; extract the labels there"
    )


def _list(base: Path, split: str) -> Path:
    lists = [base / "ImageSets" / kind / f"{split}.txt" for kind in ("SegmentationContext", "Main")]
    found = next((path for path in lists if path.exists()), None)
    if found is None:
        raise UserError(
            f"no list of PASCAL-Context {split}: looked for '{lists[0]}' and '{lists[1]}'; extract "
            "the whole VOC 2010 archive"
        )
    return found
