"""openseg.pytorch's Base-OC, ASP-OC, ISA, OCR and ASP-OCR, with InPlaceABN and a deep stem.

Networks that were trained with PyTorch's own batch norm have one more level in their names
(``oc_module_pre.1.0.weight``) and ReLU in place of leaky ReLU; they are refused.
"""

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

_BGR = Preprocessing((102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0), "BGR", 255.0)


def _attention(source: str, target: str) -> KeyMapping:
    """OCNet's attention: queries and keys through two convolutions with norm."""
    layers = {"0": "0", "1": "1", "2": "3", "3": "4"}  # InPlaceABN has its activation inside
    return {
        **{f"{source}.f_query.{a}": f"{target}.query.{b}" for a, b in layers.items()},
        **{f"{source}.f_key.{a}": f"{target}.key.{b}" for a, b in layers.items()},
        f"{source}.f_value": f"{target}.value",
        f"{source}.W": f"{target}.out",
    }


def _nested(source: str, target: str, names: KeyMapping) -> KeyMapping:
    """Two convolutions with norm in one sequence; here they are two pairs."""
    layers = {"0": "0.0", "1": "0.1", "2": "1.0", "3": "1.1"}  # conv, norm, conv, norm
    return {
        f"{source}.{a}.{i}": f"{target}.{b}.{j}"
        for a, b in names.items()
        for i, j in layers.items()
    }


_F = {"f_query": "query", "f_key": "key"}
_BLOCK = "head.context.block"

_BASE_OC = {
    "oc_module_pre": "head.context.reduce",
    **_attention("oc_module.stages.0", f"{_BLOCK}.attention"),
    "oc_module.conv_bn_dropout": f"{_BLOCK}.mix",
    "cls": "head.classify",
    "dsn": "auxiliary_head.reduce",
    "dsn.2": "auxiliary_head.classify.1",
}
_ASP_OC = {
    "context": "head.context.reduce",
    "context.2.context": f"{_BLOCK}.reduce",
    **_attention("context.2.context.2.stages.0", f"{_BLOCK}.attention"),
    "context.2.context.2.conv_bn_dropout.0": f"{_BLOCK}.refine.0",
    **{f"context.2.conv{i + 2}": f"{_BLOCK}.branches.{i}" for i in range(4)},
    "context.2.conv_bn_dropout": f"{_BLOCK}.mix",
    "cls": "head.classify",
    "dsn": "auxiliary_head.reduce",
    "dsn.2": "auxiliary_head.classify.1",
}
_ISA = {
    "isa_head": "head.context.reduce",
    **_nested("isa_head.2.stages.0.long_range_sa", f"{_BLOCK}.far", _F),
    "isa_head.2.stages.0.long_range_sa.f_value": f"{_BLOCK}.far.value",
    "isa_head.2.stages.0.long_range_sa.W": f"{_BLOCK}.far.out",
    **_nested("isa_head.2.stages.0.short_range_sa", f"{_BLOCK}.near", _F),
    "isa_head.2.stages.0.short_range_sa.f_value": f"{_BLOCK}.near.value",
    "isa_head.2.stages.0.short_range_sa.W": f"{_BLOCK}.near.out",
    "isa_head.2.conv_bn": f"{_BLOCK}.mix",
    "cls_head": "head.classify",
    "dsn_head": "auxiliary_head.reduce",
    "dsn_head.3": "auxiliary_head.classify.1",
}
_OCR_BLOCK = "spatial_ocr_head.object_context_block"
_OCR = {
    "conv_3x3": "head.reduce",
    **_nested(_OCR_BLOCK, "head.block", {"f_pixel": "query", "f_object": "key"}),
    f"{_OCR_BLOCK}.f_down": "head.block.value",
    f"{_OCR_BLOCK}.f_up": "head.block.out",
    "spatial_ocr_head.conv_bn_dropout": "head.block.mix",
    "head": "head.classify.1",
    "dsn_head": "head.regions.reduce",
    "dsn_head.3": "head.regions.classify.1",
}
_ASP = "asp_ocr_head"
_ASP_OCR = {
    f"{_ASP}.context": "head.reduce",
    **_nested(
        f"{_ASP}.context.2.object_context_block",
        "head.block",
        {"f_pixel": "query", "f_object": "key"},
    ),
    f"{_ASP}.context.2.object_context_block.f_down": "head.block.value",
    f"{_ASP}.context.2.object_context_block.f_up": "head.block.out",
    **{f"{_ASP}.conv{i + 2}": f"head.branches.{i}" for i in range(4)},
    f"{_ASP}.conv_bn_dropout": "head.mix",
    "head": "head.classify.1",
    "dsn_head": "head.regions.reduce",
    "dsn_head.3": "head.regions.classify.1",
}

# A key that only this network has -> its name and variant, its key mapping, its classifier.
_NETWORKS: dict[str, tuple[str, str, KeyMapping, str]] = {
    "oc_module_pre.0.weight": ("ocnet_base", "openseg", _BASE_OC, "cls"),
    "context.2.conv5.0.weight": ("ocnet_asp", "openseg", _ASP_OC, "cls"),
    "isa_head.0.weight": ("isa", "official", _ISA, "cls_head"),
    "spatial_ocr_head.conv_bn_dropout.0.weight": ("ocr", "official", _OCR, "head"),
    "asp_ocr_head.conv_bn_dropout.0.weight": ("ocr_asp", "official", _ASP_OCR, "head"),
}


def _design(source: Source, options: Options) -> Design:
    refuse_torch_norms(source)
    matching = [entry for key, entry in _NETWORKS.items() if key in source.tensors]
    if not matching:
        raise UserError(f"'{source.name}' does not hold a supported network of openseg")
    network, variant, head, classifier = matching[0]
    backbone, mapping = find_backbone(source, "backbone.")
    tile: dict[str, Any] = {"tile": (8, 8)} if network == "isa" else {}
    settings = settle(options, multi_grid=(), align_corners=True, output_stride=8, **tile)
    inside = network in ("ocr", "ocr_asp")  # the auxiliary head is a part of the head
    auxiliary = {} if inside else {"auxiliary": source.has("dsn")}
    return Design(
        network,
        variant,
        backbone,
        mapping | head,
        likely_classes(source.rows(f"{classifier}.weight")),
        _BGR,
        arguments(settings) | auxiliary,
        absolute_norms=True,
        settings=settings,
    )


def _matches(tensors: Tensors) -> bool:
    return "backbone.resinit.conv1.weight" in tensors and any(key in tensors for key in _NETWORKS)


FAMILIES = {"openseg": Family("an openseg checkpoint", _matches, _design)}
