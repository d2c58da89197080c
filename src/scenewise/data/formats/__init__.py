"""Published data sets, one file each: class names, official colours, and how their files are read.

The publishers' archives are read as they come; nothing has to be converted first.
"""

import os
from collections.abc import Callable

from scenewise.data.datasets import FolderDataset, SegmentationDataset, Transform
from scenewise.data.formats.ade20k import ADE20K
from scenewise.data.formats.camvid import CamVid, camvid_32
from scenewise.data.formats.cityscapes import Cityscapes, cityscapes_coarse
from scenewise.data.formats.coco_stuff import CocoStuff
from scenewise.data.formats.hugging_face import HuggingFace
from scenewise.data.formats.pascal_context import PascalContext, pascal_context_59
from scenewise.data.formats.voc import VOC, VOCAug
from scenewise.data.shards import ShardSet

Root = str | os.PathLike[str]

# How to open one split of what lies in files or shards: (root, split, transform) -> data set.
FORMATS: dict[str, Callable[[Root, str, Transform | None], SegmentationDataset]] = {
    "folder": FolderDataset,
    "cityscapes": Cityscapes,
    "cityscapes_coarse": cityscapes_coarse,
    "voc": VOC,
    "voc_aug": VOCAug,
    "pascal_context": PascalContext,
    "pascal_context_59": pascal_context_59,
    "coco_stuff": CocoStuff,
    "ade20k": ADE20K,
    "camvid": CamVid,
    "camvid_32": camvid_32,
    "hugging_face": HuggingFace,
    "stream": ShardSet,
}
