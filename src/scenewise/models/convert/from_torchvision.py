"""torchvision's FCN and DeepLabV3, trained on COCO with the classes of VOC."""

from scenewise.classes import likely_classes
from scenewise.models.convert.spec import (
    RGB_1,
    Design,
    Family,
    Options,
    Source,
    Tensors,
    find_backbone,
    settle,
)

_FCN = {
    "classifier.0": "head.reduce.0",
    "classifier.1": "head.reduce.1",
    "classifier.4": "head.classify.1",
}
_DEEPLABV3 = {
    **{f"classifier.0.convs.{i}": f"head.context.pool.branches.{i}" for i in range(4)},
    "classifier.0.convs.4.1": "head.context.pool.pool.1",
    "classifier.0.convs.4.2": "head.context.pool.pool.2",
    "classifier.0.project": "head.context.pool.project",
    "classifier.1": "head.context.refine.0",
    "classifier.2": "head.context.refine.1",
    "classifier.4": "head.classify.1",
}
_AUXILIARY = {
    "aux_classifier.0": "auxiliary_head.reduce.0",
    "aux_classifier.1": "auxiliary_head.reduce.1",
    "aux_classifier.4": "auxiliary_head.classify.1",
}


def _design(source: Source, options: Options) -> Design:
    """FCN or DeepLabV3, with its auxiliary head if the file has it."""
    deeplabv3 = source.has("classifier.0.convs.")
    network, head = ("deeplabv3", _DEEPLABV3) if deeplabv3 else ("fcn", _FCN)
    backbone, places = find_backbone(source, "backbone.")
    settled = settle(options, multi_grid=(), align_corners=False, output_stride=8)
    return Design(
        network,
        "torchvision",
        backbone,
        places | head | _AUXILIARY,
        likely_classes(source.rows("classifier.4.weight")),
        RGB_1,
        {**settled, "auxiliary": source.has("aux_classifier.")},
    )


def _matches(tensors: Tensors) -> bool:
    return "classifier.4.weight" in tensors and "backbone.conv1.weight" in tensors


FAMILIES = {"torchvision": Family("a checkpoint of torchvision", _matches, _design)}
