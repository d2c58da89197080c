"""The authors' DANet, DRANet, FCN (junfu1115/DANet) and EncNet, on PyTorch-Encoding.

Both layouts: v0.5.0 with its plain stem and ImageNet classifier, and the later one with an
optional deep stem.
"""

from functools import partial

from scenewise.classes import likely_classes
from scenewise.errors import UserError
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

DANET = {
    "head.conv5a": "head.position.0",
    "head.sa.query_conv": "head.position.1.query",
    "head.sa.key_conv": "head.position.1.key",
    "head.sa.value_conv": "head.position.1.value",
    "head.sa.gamma": "head.position.1.gamma",
    "head.conv51": "head.position.2",
    "head.conv5c": "head.channel.0",
    "head.sc.gamma": "head.channel.1.gamma",
    "head.conv52": "head.channel.2",
    "head.conv6.1": "head.classify_position.1",
    "head.conv7.1": "head.classify_channel.1",
    "head.conv8.1": "head.classify.1",
}
DRANET = {
    "head.conv_cpam_b": "head.position.reduce",
    **{f"head.cpam_enc.conv{i + 1}": f"head.position.block.encode.{i}" for i in range(4)},
    "head.cpam_dec.scale": "head.position.block.gamma",
    "head.cpam_dec.conv_query": "head.position.block.query",
    "head.cpam_dec.conv_key": "head.position.block.key",
    "head.cpam_dec.conv_value": "head.position.block.value",
    "head.conv_cpam_e": "head.position.refine",
    "head.conv_ccam_b": "head.channel.reduce",
    "head.ccam_enc": "head.channel.block.encode",
    "head.ccam_dec.scale": "head.channel.block.gamma",
    "head.conv_ccam_e": "head.channel.refine",
    "head.conv_cat": "head.fuse",
    "head.clgd.conv_low": "head.gate.low",
    "head.clgd.conv_cat": "head.gate.fuse",
    "head.clgd.conv_att.0": "head.gate.gate",
    "head.clgd.conv_out": "head.gate.out",
    "head.clgd.gamma": "head.gate.gamma",
    "cls_seg.1": "head.classify.1",
    "cls_aux": "auxiliary_head.reduce",
    "cls_aux.4": "auxiliary_head.classify.1",
}
FCN = {
    "head.conv5": "head.reduce",
    "head.conv5.4": "head.classify.1",
    "auxlayer.conv5": "auxiliary_head.reduce",
    "auxlayer.conv5.4": "auxiliary_head.classify.1",
}
ENCNET = {
    "head.conv5": "head.reduce",
    "head.encmodule.encoding.0": "head.block.project.0",
    "head.encmodule.encoding.1": "head.block.project.1",
    "head.encmodule.encoding.3.codewords": "head.block.codewords",
    "head.encmodule.encoding.3.scale": "head.block.smoothing",
    "head.encmodule.encoding.4": "head.block.norm",
    "head.encmodule.fc.0": "head.block.gate",
    "head.encmodule.selayer": "head.block.presence",
    "head.conv6.1": "head.classify.1",
    "auxlayer.conv5": "auxiliary_head.reduce",
    "auxlayer.conv5.4": "auxiliary_head.classify.1",
}
_MULTI_GRID = (4, 8, 16)


def _design(
    network: str,
    head: dict[str, str],
    classifier: str,
    multi_grid: tuple[int, ...],
    source: Source,
    options: Options,
) -> Design:
    if source.has("head.connect."):
        raise UserError(
            f"'{source.name}' is an EncNet with lateral connections (lateral=True), which are not "
            "supported; train encnet on your data instead"
        )
    backbone, mapping = find_backbone(source, "pretrained.")
    settings = settle(options, multi_grid=multi_grid, align_corners=True, output_stride=8)
    return Design(
        network,
        "official",
        backbone,
        mapping | head,
        likely_classes(source.rows(classifier)),
        RGB_1,
        {**arguments(settings), "auxiliary": source.has("cls_aux.") or source.has("auxlayer.")},
        dropped={"pretrained.fc": "the ImageNet classifier"},
        settings=settings,
    )


_FCN_KEYS = {"head.conv5.4.weight", "pretrained.layer1.0.conv1.weight"}
FAMILIES = {
    "danet": Family(
        "the authors' DANet",
        lambda keys: "head.sa.gamma" in keys,
        partial(_design, "danet", DANET, "head.conv8.1.weight", _MULTI_GRID),
    ),
    "dranet": Family(
        "the authors' DRANet",
        lambda keys: "head.cpam_dec.scale" in keys,
        partial(_design, "dranet", DRANET, "cls_seg.1.weight", _MULTI_GRID),
    ),
    "encoding-fcn": Family(
        "the FCN of the DANet repository",
        lambda keys: keys.keys() >= _FCN_KEYS,
        partial(_design, "fcn", FCN, "head.conv5.4.weight", ()),  # no multi-grid
    ),
    "encoding-encnet": Family(
        "the EncNet of PyTorch-Encoding",
        lambda keys: any(key.startswith("head.encmodule.") for key in keys),
        partial(_design, "encnet", ENCNET, "head.conv6.1.weight", ()),
    ),
}
