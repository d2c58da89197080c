"""The table of dataset formats: the native folder, published datasets, Hugging Face and shards.

Published datasets have one file each: class names, official colours, and how their files are read.
The publishers' archives are read as they unpack; nothing has to be converted first.
"""

from collections.abc import Callable

from scenewise.data.datasets import FolderDataset, Root, SegmentationDataset, Transform
from scenewise.data.formats.ade20k import ADE20K
from scenewise.data.formats.camvid import CamVid, CamVid32
from scenewise.data.formats.cityscapes import Cityscapes, CityscapesCoarse
from scenewise.data.formats.coco_stuff import CocoStuff
from scenewise.data.formats.hugging_face import HuggingFace
from scenewise.data.formats.pascal_context import PascalContext, PascalContext59
from scenewise.data.formats.voc import VOC, VOCAug
from scenewise.data.shards import ShardSet

# How to open one split of stored data: (root, split, transform) -> dataset.
FORMATS: dict[str, Callable[[Root, str, Transform | None], SegmentationDataset]] = {
    "folder": FolderDataset,
    "ade20k": ADE20K,
    "camvid": CamVid,
    "camvid_32": CamVid32,
    "cityscapes": Cityscapes,
    "cityscapes_coarse": CityscapesCoarse,
    "coco_stuff": CocoStuff,
    "hugging_face": HuggingFace,
    "pascal_context": PascalContext,
    "pascal_context_59": PascalContext59,
    "stream": ShardSet,
    "voc": VOC,
    "voc_aug": VOCAug,
}
