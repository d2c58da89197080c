"""torchvision's FCN and DeepLabV3, trained on COCO with the classes of VOC."""

from scenewise.classes import likely_classes
from scenewise.models.convert.spec import (
    RGB_1,
    Design,
    Family,
    Options,
    Source,
    arguments,
    find_backbone,
    settle,
)

_FCN = {
    "classifier": "head.reduce",
    "classifier.4": "head.classify.1",
}
_DEEPLABV3 = {
    "classifier.0.convs": "head.context.pool.branches",
    "classifier.0.convs.4": "head.context.pool.pool",
    "classifier.0.project": "head.context.pool.project",
    "classifier.1": "head.context.refine.0",
    "classifier.2": "head.context.refine.1",
    "classifier.4": "head.classify.1",
}
_AUXILIARY = {
    "aux_classifier": "auxiliary_head.reduce",
    "aux_classifier.4": "auxiliary_head.classify.1",
}


def _design(source: Source, options: Options) -> Design:
    """FCN or DeepLabV3, with its auxiliary head if the file has it."""
    deeplabv3 = source.has("classifier.0.convs.")
    network, head = ("deeplabv3", _DEEPLABV3) if deeplabv3 else ("fcn", _FCN)
    backbone, mapping = find_backbone(source, "backbone.")
    settings = settle(options, multi_grid=(), align_corners=False, output_stride=8)
    return Design(
        network,
        "torchvision",
        backbone,
        mapping | head | _AUXILIARY,
        likely_classes(source.rows("classifier.4.weight")),
        RGB_1,
        {**arguments(settings), "auxiliary": source.has("aux_classifier.")},
        settings=settings,
    )


_KEYS = {"classifier.4.weight", "backbone.conv1.weight"}
FAMILIES = {
    "torchvision": Family("a torchvision checkpoint", lambda keys: keys.keys() >= _KEYS, _design)
}
