"""The authors' CCNet (speedinghzl/CCNet), with InPlaceABN and a deep stem."""

from scenewise.classes import likely_classes
from scenewise.models.convert.spec import (
    Design,
    Family,
    Options,
    Source,
    Tensors,
    find_backbone,
    refuse_torch_norms,
    settle,
)
from scenewise.models.preprocessing import Preprocessing

_BGR = Preprocessing((104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0), "BGR", 255.0)
_BRANCH = "head.context.join.branch"
_HEAD = {
    "head.conva": f"{_BRANCH}.reduce",
    "head.cca.query_conv": f"{_BRANCH}.block.query",
    "head.cca.key_conv": f"{_BRANCH}.block.key",
    "head.cca.value_conv": f"{_BRANCH}.block.value",
    "head.cca.gamma": f"{_BRANCH}.block.gamma",
    "head.convb": f"{_BRANCH}.refine",
    "head.bottleneck.0": "head.context.bottleneck.0",
    "head.bottleneck.1": "head.context.bottleneck.1",
    "head.bottleneck.3": "head.classify.1",
    "dsn.0": "auxiliary_head.reduce.0",
    "dsn.1": "auxiliary_head.reduce.1",
    "dsn.3": "auxiliary_head.classify.1",
}


def _design(source: Source, options: Options) -> Design:
    """CCNet; the recurrence of its attention is not stored, 2 is the released setting."""
    refuse_torch_norms(source)
    backbone, places = find_backbone(source, "")
    settled = settle(options, multi_grid=(), align_corners=True, output_stride=8, recurrence=2)
    return Design(
        "ccnet",
        "official",
        backbone,
        places | _HEAD,
        likely_classes(source.rows("head.bottleneck.3.weight")),
        _BGR,
        {**settled, "auxiliary": source.has("dsn.")},
        absolute_norms=True,
    )


def _matches(tensors: Tensors) -> bool:
    return "head.cca.gamma" in tensors and "head.bottleneck.3.weight" in tensors


FAMILIES = {"ccnet": Family("the authors' CCNet", _matches, _design)}
