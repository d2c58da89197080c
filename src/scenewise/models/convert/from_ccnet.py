"""The authors' CCNet (speedinghzl/CCNet), with InPlaceABN and a deep stem."""

from scenewise.classes import likely_classes
from scenewise.models.convert.spec import (
    Design,
    Family,
    Options,
    Source,
    arguments,
    find_backbone,
    refuse_torch_norms,
    settle,
)
from scenewise.models.preprocessing import Preprocessing

_BGR = Preprocessing((104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0), "BGR", 255.0)
_BRANCH = "head.context.join.branch"  # of concat_branch
_HEAD = {
    "head.conva": f"{_BRANCH}.reduce",
    **{f"head.cca.{x}_conv": f"{_BRANCH}.block.{x}" for x in ("query", "key", "value")},
    "head.cca.gamma": f"{_BRANCH}.block.gamma",
    "head.convb": f"{_BRANCH}.refine",
    "head.bottleneck": "head.context.bottleneck",
    "head.bottleneck.3": "head.classify.1",
    "dsn": "auxiliary_head.reduce",
    "dsn.3": "auxiliary_head.classify.1",
}


def _design(source: Source, options: Options) -> Design:
    """CCNet; the recurrence of its attention is not stored, 2 is the released setting."""
    refuse_torch_norms(source)
    backbone, mapping = find_backbone(source, "")
    settings = settle(options, multi_grid=(), align_corners=True, output_stride=8, recurrence=2)
    return Design(
        "ccnet",
        "official",
        backbone,
        mapping | _HEAD,
        likely_classes(source.rows("head.bottleneck.3.weight")),
        _BGR,
        {**arguments(settings), "auxiliary": source.has("dsn.")},
        absolute_norms=True,
        settings=settings,
    )


_KEYS = {"head.cca.gamma", "head.bottleneck.3.weight"}
FAMILIES = {"ccnet": Family("the authors' CCNet", lambda keys: keys.keys() >= _KEYS, _design)}
