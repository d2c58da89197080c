"""semseg's PSPNet (hszhao/semseg), the authors' PyTorch code."""

from scenewise.classes import likely_classes
from scenewise.models.convert.spec import (
    RGB_255,
    Design,
    Family,
    Options,
    Source,
    arguments,
    find_backbone,
    settle,
)

_HEAD = {
    "ppm.features": "head.context.pool.branches",
    "cls": "head.context.bottleneck",
    "cls.4": "head.classify.1",
    "aux": "auxiliary_head.reduce",
    "aux.4": "auxiliary_head.classify.1",
}


def _design(source: Source, options: Options) -> Design:
    """PSPNet. The code takes images with sides of 8 k + 1 pixels only; any size works here."""
    backbone, mapping = find_backbone(source, "")
    settings = settle(
        options, multi_grid=(), align_corners=True, output_stride=8, bins=(1, 2, 3, 6)
    )
    return Design(
        "pspnet",
        "official",
        backbone,
        mapping | _HEAD,
        likely_classes(source.rows("cls.4.weight")),
        RGB_255,
        {**arguments(settings), "auxiliary": source.has("aux.")},
        settings=settings,
    )


FAMILIES = {
    "semseg": Family("a PSPNet of semseg", lambda keys: "ppm.features.0.1.weight" in keys, _design)
}
