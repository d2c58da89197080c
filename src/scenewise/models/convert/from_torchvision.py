"""torchvision's FCN and DeepLabV3, trained on COCO with the classes of VOC."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from scenewise.classes import likely_classes
from scenewise.models.convert.spec import (
    RGB_1,
    Design,
    Family,
    Options,
    Setting,
    Source,
    arguments,
    binary_classes,
    check_threshold,
    find_backbone,
    settle,
    two_rows,
    unsqueeze_scale,
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
    count = source.rows("classifier.4.weight")
    binary: dict[str, Any] = {"threshold": 0.5} if count == 1 else {}
    settings = settle(options, multi_grid=(), align_corners=False, output_stride=8, **binary)
    if deeplabv3:
        rates = [rate * 8 // settings["output_stride"].value for rate in (12, 24, 36)]
        settings["rates"] = Setting(rates, settings["output_stride"].origin)
    importer: Callable[[str, Tensor], Tensor] = unsqueeze_scale
    if binary:
        importer = partial(_import_binary, check_threshold(settings["threshold"].value))
    return Design(
        network,
        "torchvision",
        backbone,
        mapping | head | _AUXILIARY,
        binary_classes() if binary else likely_classes(count),
        RGB_1,
        {**arguments(settings), "auxiliary": source.has("aux_classifier.")},
        import_tensor=importer,
        settings=settings,
    )


def _import_binary(threshold: float, key: str, tensor: Tensor) -> Tensor:
    """Two rows for the one row of a classifier."""
    module = key.rpartition(".")[0]
    return two_rows(tensor, threshold) if module.endswith("classifier.4") else tensor


_KEYS = {"classifier.4.weight", "backbone.conv1.weight"}
FAMILIES = {
    "torchvision": Family("a torchvision checkpoint", lambda keys: keys.keys() >= _KEYS, _design)
}
