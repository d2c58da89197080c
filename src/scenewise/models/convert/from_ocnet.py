"""OCNet's first release (openseg-group/OCNet.pytorch): base, pyramid, ASP and the baseline."""

from typing import Any

from scenewise.classes import likely_classes
from scenewise.errors import UserError
from scenewise.models.convert.spec import (
    Design,
    Family,
    KeyMapping,
    Options,
    Source,
    Tensors,
    arguments,
    find_backbone,
    refuse_torch_norms,
    settle,
)
from scenewise.models.preprocessing import Preprocessing

# The code flips the channels to RGB and subtracts the mean in BGR order; its weights expect that.
_RGB = Preprocessing((102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0), "RGB", 255.0)
_BLOCK = "head.context.block"


def _attention(source: str, target: str) -> KeyMapping:
    """Queries and keys are one module, stored under both names."""
    return {
        f"{source}.f_key": f"{target}.query",
        f"{source}.f_query": f"{target}.query",
        f"{source}.f_value": f"{target}.value",
        f"{source}.W": f"{target}.out",
    }


_CLASSIFIERS = {
    "cls": "head.classify",
    "dsn": "auxiliary_head.reduce",
    "dsn.3": "auxiliary_head.classify.1",
}
_BASE = {
    "context": "head.context.reduce",
    **_attention("context.2.stages.0", f"{_BLOCK}.attention"),
    "context.2.conv_bn_dropout": f"{_BLOCK}.mix",
    **_CLASSIFIERS,
}
_ASP = {
    "context": "head.context.reduce",
    "context.2.context": f"{_BLOCK}.reduce",
    **_attention("context.2.context.2.stages.0", f"{_BLOCK}.attention"),
    "context.2.context.2.conv_bn_dropout": f"{_BLOCK}.refine",
    **{f"context.2.conv{i + 2}": f"{_BLOCK}.branches.{i}" for i in range(4)},
    "context.2.conv_bn_dropout": f"{_BLOCK}.mix",
    **_CLASSIFIERS,
}
_PYRAMID = {
    "layer5": "head.context.reduce",
    **{
        key: target
        for i in range(4)
        for key, target in _attention(f"context.stages.{i}", f"{_BLOCK}.attentions.{i}").items()
    },
    "context.up_dr": f"{_BLOCK}.widen",
    "context.conv_bn_dropout": f"{_BLOCK}.mix",
    **_CLASSIFIERS,
}
_BASELINE = {"layer5": "head.reduce", "layer6": "head.classify.1"}

# A key that only this network has -> its name, variant, key mapping and classifier.
_NETWORKS: dict[str, tuple[str, str, KeyMapping, str]] = {
    "context.2.stages.0.f_key.0.weight": ("ocnet_base", "official", _BASE, "cls"),
    "context.2.context.2.stages.0.f_key.0.weight": ("ocnet_asp", "official", _ASP, "cls"),
    "context.stages.0.f_key.0.weight": ("ocnet_pyramid", "official", _PYRAMID, "cls"),
    "layer6.weight": ("fcn", "ocnet", _BASELINE, "layer6"),
}
# The code's defaults; attention on a pooled feature map has the same tensors.
_ASSUMED: dict[str, dict[str, Any]] = {
    "ocnet_base": {"pool": 1},
    "ocnet_pyramid": {"sizes": (1, 2, 3, 6)},
}


def _design(source: Source, options: Options) -> Design:
    refuse_torch_norms(source)
    matching = [entry for key, entry in _NETWORKS.items() if key in source.tensors]
    if not matching:
        raise UserError(f"'{source.name}' does not hold a supported network of OCNet's release")
    network, variant, head, classifier = matching[0]
    backbone, mapping = find_backbone(source, "")
    own = _ASSUMED.get(network, {})
    settings = settle(options, multi_grid=(), align_corners=True, output_stride=8, **own)
    return Design(
        network,
        variant,
        backbone,
        mapping | head,
        likely_classes(source.rows(f"{classifier}.weight")),
        _RGB,
        {**arguments(settings), "auxiliary": source.has("dsn.")},
        absolute_norms=True,
        settings=settings,
    )


def _matches(tensors: Tensors) -> bool:
    return "conv3.weight" in tensors and any(key in tensors for key in _NETWORKS)


FAMILIES = {"ocnet": Family("the first release of OCNet", _matches, _design)}
