"""The table of dataset formats: the native folder, published datasets, Hugging Face and shards.

Published datasets have one file each: class names, official colours, and how their files are read.
The publishers' archives are read as they unpack; nothing has to be converted first.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from scenewise.data.datasets import Root, SegmentationDataset, Transform
from scenewise.data.formats.ade20k import ADE20K
from scenewise.data.formats.camvid import CamVid, CamVid32
from scenewise.data.formats.cityscapes import Cityscapes, CityscapesCoarse
from scenewise.data.formats.coco_json import CocoJson
from scenewise.data.formats.coco_stuff import CocoStuff
from scenewise.data.formats.cvat import Cvat, CvatMasks
from scenewise.data.formats.folder import FolderDataset
from scenewise.data.formats.hugging_face import HuggingFace
from scenewise.data.formats.hugging_face import recognise as recognise_hugging_face
from scenewise.data.formats.hugging_face import splits as hugging_face_splits
from scenewise.data.formats.label_studio import LabelStudio, LabelStudioOrder
from scenewise.data.formats.labelme import Labelme, LabelmeVoc
from scenewise.data.formats.listing import Listing
from scenewise.data.formats.matlab_labels import MatlabLabels
from scenewise.data.formats.pascal_context import PascalContext, PascalContext59
from scenewise.data.formats.segments_ai import SegmentsAI
from scenewise.data.formats.supervisely import Supervisely, SuperviselyMasks
from scenewise.data.formats.via import Via
from scenewise.data.formats.voc import VOC, VOCAug
from scenewise.data.formats.yolo import Ultralytics, Yolo
from scenewise.data.shards import ShardSet


class Format(NamedTuple):
    """How data of one layout is opened and recognised.

    Attributes:
        open: (root, split, transform) -> one split.
        recognise: listing -> why the folder has this layout, in one line without a full stop, or
            None; None in place of the function if only its name chooses the format.
        splits: listing -> the splits that ``open`` accepts for this folder, of train, val and
            test, or ``("all",)`` if the data is not divided. A missing val is then taken out of
            train, or of all, by a seeded division. None: the publisher's splits.
    """

    open: Callable[[Root, str, Transform | None], SegmentationDataset]
    recognise: Callable[[Listing], str | None] | None = None
    splits: Callable[[Listing], Sequence[str]] | None = None


def _recognise_shards(listing: Listing) -> str | None:
    shards = [path for path in listing.sample if path.endswith(".tar")]
    return "shards and their index" if shards and listing.has("index.json") else None


FORMATS: dict[str, Format] = {
    "folder": Format(FolderDataset),
    "ade20k": Format(ADE20K, ADE20K.recognise),
    "camvid": Format(CamVid, CamVid.recognise),
    "camvid_32": Format(CamVid32, CamVid32.recognise),
    "cityscapes": Format(Cityscapes, Cityscapes.recognise),
    "cityscapes_coarse": Format(CityscapesCoarse, CityscapesCoarse.recognise),
    "coco_stuff": Format(CocoStuff, CocoStuff.recognise),
    "hugging_face": Format(HuggingFace, recognise_hugging_face, hugging_face_splits),
    "pascal_context": Format(PascalContext, PascalContext.recognise),
    "pascal_context_59": Format(PascalContext59, PascalContext59.recognise),
    "stream": Format(ShardSet, _recognise_shards),
    "voc": Format(VOC, VOC.recognise),
    "voc_aug": Format(VOCAug, VOCAug.recognise),
    "coco": Format(CocoJson, CocoJson.recognise, CocoJson.splits),
    "cvat": Format(Cvat, Cvat.recognise, Cvat.splits),
    "cvat_masks": Format(CvatMasks, CvatMasks.recognise, CvatMasks.splits),
    "labelme": Format(Labelme, Labelme.recognise, Labelme.splits),
    "labelme_voc": Format(LabelmeVoc, LabelmeVoc.recognise, LabelmeVoc.splits),
    "labelstudio": Format(LabelStudio, LabelStudio.recognise, LabelStudio.splits),
    "labelstudio_order": Format(LabelStudioOrder, None, LabelStudioOrder.splits),
    "matlab_labels": Format(MatlabLabels, MatlabLabels.recognise, MatlabLabels.splits),
    "segments_ai": Format(SegmentsAI, SegmentsAI.recognise, SegmentsAI.splits),
    "supervisely": Format(Supervisely, Supervisely.recognise, Supervisely.splits),
    "supervisely_masks": Format(
        SuperviselyMasks, SuperviselyMasks.recognise, SuperviselyMasks.splits
    ),
    "ultralytics": Format(Ultralytics, Ultralytics.recognise, Ultralytics.splits),
    "via": Format(Via, Via.recognise, Via.splits),
    "yolo": Format(Yolo, Yolo.recognise, Yolo.splits),
}
