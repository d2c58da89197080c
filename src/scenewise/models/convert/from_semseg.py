"""semseg's PSPNet (hszhao/semseg), the authors' PyTorch code."""

from scenewise.classes import likely_classes
from scenewise.models.convert.spec import (
    RGB_255,
    Design,
    Family,
    Options,
    Source,
    Tensors,
    find_backbone,
    settle,
)

_HEAD = {
    **{f"ppm.features.{i}.1": f"head.context.pool.branches.{i}.1" for i in range(4)},
    **{f"ppm.features.{i}.2": f"head.context.pool.branches.{i}.2" for i in range(4)},
    "cls.0": "head.context.bottleneck.0",
    "cls.1": "head.context.bottleneck.1",
    "cls.4": "head.classify.1",
    "aux.0": "auxiliary_head.reduce.0",
    "aux.1": "auxiliary_head.reduce.1",
    "aux.4": "auxiliary_head.classify.1",
}


def _design(source: Source, options: Options) -> Design:
    """PSPNet. The code takes images with sides of 8 k + 1 pixels only; any size works here."""
    backbone, places = find_backbone(source, "")
    settled = settle(options, multi_grid=(), align_corners=True, output_stride=8)
    return Design(
        "pspnet",
        "official",
        backbone,
        places | _HEAD,
        likely_classes(source.rows("cls.4.weight")),
        RGB_255,
        {**settled, "auxiliary": source.has("aux.")},
    )


def _matches(tensors: Tensors) -> bool:
    return "ppm.features.0.1.weight" in tensors


FAMILIES = {"semseg": Family("a PSPNet of semseg", _matches, _design)}
