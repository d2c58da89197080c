"""mmsegmentation's networks on ResNets: one table of key mappings a head.

The file holds the class names and often its config. Without a config a published file name gives
crop, stride and dilations, as in ``deeplabv3_r101-d16-mg124_512x1024_80k_cityscapes.pth``.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from scenewise.classes import Classes, Color, distinct_colors, likely_classes
from scenewise.errors import UserError
from scenewise.models.convert.mmseg_config import HEAD_OPTIONS, Config, read_config
from scenewise.models.convert.spec import (
    RGB_255,
    Design,
    Family,
    KeyMapping,
    Options,
    Setting,
    Source,
    Tensors,
    arguments,
    binary_classes,
    check_threshold,
    find_backbone,
    settle,
    two_rows,
    unsqueeze_scale,
)
from scenewise.models.resnet_keys import is_basic


def _modules(**modules: str) -> KeyMapping:
    """Keys of convolutions with norm: ``a.conv`` and ``a.bn`` to ``b.0`` and ``b.1``."""
    return {
        f"{source}.{part}": f"{target}.{index}"
        for source, target in modules.items()
        for index, part in enumerate(("conv", "bn"))
    }


def _concat_head(block: KeyMapping) -> KeyMapping:
    """The FCN head, with the layers of ``block`` between its first two convolutions."""
    branch = "context.join.branch"
    return {
        **_modules(
            **{
                "convs.0": f"{branch}.reduce",
                "convs.1": f"{branch}.refine",
                "conv_cat": "context.bottleneck",
            }
        ),
        **{source: f"{branch}.block.{target}" for source, target in block.items()},
        "conv_seg": "classify.1",
    }


def _projections(source: str, target: str, names: Mapping[str, str], stages: int) -> KeyMapping:
    """mmsegmentation's attention block: queries and keys through one or two convolutions."""
    if stages == 1:  # then without an index in the names
        return _modules(**{f"{source}.{a}": f"{target}.{b}" for a, b in names.items()})
    pairs = [(a, b, i) for a, b in names.items() for i in range(stages)]
    return _modules(**{f"{source}.{a}.{i}": f"{target}.{b}.{i}" for a, b, i in pairs})


_QUERY_KEY = {"query_project": "query", "key_project": "key"}
_NON_LOCAL_OUT = {"conv_out.conv": "out", "conv_out.bn": "norm"}

_DANET = {
    **_modules(
        pam_in_conv="position.0",
        pam_out_conv="position.2",
        cam_in_conv="channel.0",
        cam_out_conv="channel.2",
    ),
    "pam.query_project": "position.1.query",
    "pam.key_project": "position.1.key",
    "pam.value_project": "position.1.value",
    "pam.gamma.scale": "position.1.gamma",
    "cam.gamma.scale": "channel.1.gamma",
    "conv_seg": "classify.1",
    "pam_conv_seg": "classify_position.1",
    "cam_conv_seg": "classify_channel.1",
}
_FCN = _concat_head({})
_CCNET = _concat_head(
    {
        "cca.query_conv": "query",
        "cca.key_conv": "key",
        "cca.value_conv": "value",
        "cca.gamma.scale": "gamma",
    }
)
_NONLOCAL = _concat_head(
    {
        "nl_block.theta.conv": "theta",
        "nl_block.phi.conv": "phi",
        "nl_block.g.conv": "g",
        **{f"nl_block.{a}": b for a, b in _NON_LOCAL_OUT.items()},
    }
)
_DNL = _concat_head(
    {
        "dnl_block.theta.conv": "query",
        "dnl_block.phi.conv": "key",
        "dnl_block.g.conv": "value",
        "dnl_block.conv_mask": "mask",
        **{f"dnl_block.{a}": b for a, b in _NON_LOCAL_OUT.items()},
    }
)
_GCNET = _concat_head(
    {
        "gc_block.conv_mask": "mask",
        "gc_block.channel_add_conv.0": "squeeze",
        "gc_block.channel_add_conv.1": "norm",
        "gc_block.channel_add_conv.3": "excite",
    }
)
_PSPNET = {
    **{f"psp_modules.{i}.1.conv": f"context.pool.branches.{i}.1" for i in range(4)},
    **{f"psp_modules.{i}.1.bn": f"context.pool.branches.{i}.2" for i in range(4)},
    **_modules(bottleneck="context.bottleneck"),
    "conv_seg": "classify.1",
}
_DEEPLABV3 = {
    "image_pool.1.conv": "context.pool.1",
    "image_pool.1.bn": "context.pool.2",
    **_modules(**{f"aspp_modules.{i}": f"context.branches.{i}" for i in range(4)}),
    **_modules(bottleneck="context.project"),
    "conv_seg": "classify.1",
}
# a depthwise and a 1x1 convolution each
_SEPARABLE = {
    **{f"aspp_modules.{i}": f"context.context.branches.{i}" for i in (1, 2, 3)},
    **{f"sep_bottleneck.{i}": f"fuse.{i}" for i in (0, 1)},
}
_DEEPLABV3PLUS = {
    "image_pool.1.conv": "context.context.pool.1",
    "image_pool.1.bn": "context.context.pool.2",
    **_modules(
        **{
            "aspp_modules.0": "context.context.branches.0",
            "bottleneck": "context.context.project",
            "c1_bottleneck": "reduce",
        },
        **{f"{a}.depthwise_conv": f"{b}.0" for a, b in _SEPARABLE.items()},
        **{f"{a}.pointwise_conv": f"{b}.1" for a, b in _SEPARABLE.items()},
    ),
    "conv_seg": "classify.1",
}
_UPERNET = {
    **{f"psp_modules.{i}.1.conv": f"pool.branches.{i}.1" for i in range(4)},
    **{f"psp_modules.{i}.1.bn": f"pool.branches.{i}.2" for i in range(4)},
    **_modules(bottleneck="bottleneck", fpn_bottleneck="fuse"),
    **_modules(**{f"lateral_convs.{i}": f"lateral.{i}" for i in range(3)}),
    **_modules(**{f"fpn_convs.{i}": f"smooth.{i}" for i in range(3)}),
    "conv_seg": "classify.1",
}
_ISA = {
    **_modules(in_conv="context.reduce", out_conv="context.block.mix"),
    **_projections("global_relation", "context.block.far", _QUERY_KEY, 2),
    **_projections("local_relation", "context.block.near", _QUERY_KEY, 2),
    **_modules(
        **{
            "global_relation.output_project": "context.block.far.out",
            "local_relation.output_project": "context.block.near.out",
        }
    ),
    "global_relation.value_project": "context.block.far.value",
    "local_relation.value_project": "context.block.near.value",
    "conv_seg": "classify.1",
}
_ANN = {
    **_projections("fusion.stages.0", "fuse.attention", _QUERY_KEY, 1),
    "fusion.stages.0.value_project": "fuse.attention.value",
    "fusion.stages.0.out_project": "fuse.attention.out",
    **_modules(**{"fusion.bottleneck": "fuse.mix", "context.bottleneck": "block.mix"}),
    **_modules(bottleneck="reduce"),
    # one module, stored under both names
    **_projections("context.stages.0", "block.attention", {"query_project": "query"}, 1),
    **_projections("context.stages.0", "block.attention", {"key_project": "query"}, 1),
    "context.stages.0.value_project": "block.attention.value",
    "context.stages.0.out_project": "block.attention.out",
    "conv_seg": "classify",
}
_EMANET = {
    **_modules(
        ema_in_conv="context.join.branch.reduce",
        bottleneck="context.join.branch.refine",
        conv_cat="context.bottleneck",
    ),
    "ema_mid_conv.conv": "context.join.branch.block.first",
    "ema_out_conv.conv": "context.join.branch.block.last",
    "ema_out_conv.bn": "context.join.branch.block.norm",
    "ema_module.bases": "context.join.branch.block.bases",
    "conv_seg": "classify.1",
}
_ENCNET = {
    **_modules(**{"bottleneck": "reduce", "enc_module.encoding_project": "block.project"}),
    "enc_module.encoding.0.codewords": "block.codewords",
    "enc_module.encoding.0.scale": "block.smoothing",
    "enc_module.encoding.1": "block.norm",
    "enc_module.fc.0": "block.gate",
    "se_layer": "block.presence",
    "conv_seg": "classify.1",
}
_OCR = {
    **_modules(**{"0.convs.0": "regions.reduce", "1.bottleneck": "reduce"}),
    "0.conv_seg": "regions.classify.1",
    **_projections("1.object_context_block", "block", _QUERY_KEY, 2),
    **_projections(
        "1.object_context_block", "block", {"value_project": "value", "out_project": "out"}, 1
    ),
    **_modules(**{"1.object_context_block.bottleneck": "block.mix"}),
    "1.conv_seg": "classify.1",
}
_AUXILIARY = {
    "auxiliary_head.convs.0.conv": "auxiliary_head.reduce.0",
    "auxiliary_head.convs.0.bn": "auxiliary_head.reduce.1",
    "auxiliary_head.conv_seg": "auxiliary_head.classify.1",
}

# A prefix that only this head has -> its network here, its key mapping.
HEADS: dict[str, tuple[str, KeyMapping]] = {
    "pam.": ("danet", _DANET),
    "cca.": ("ccnet", _CCNET),
    "nl_block.": ("nonlocal", _NONLOCAL),
    "dnl_block.": ("dnl", _DNL),
    "gc_block.": ("gcnet", _GCNET),
    "fpn_bottleneck.": ("upernet", _UPERNET),
    "psp_modules.": ("pspnet", _PSPNET),
    "sep_bottleneck.": ("deeplabv3plus", _DEEPLABV3PLUS),
    "image_pool.": ("deeplabv3", _DEEPLABV3),
    "global_relation.": ("isa", _ISA),
    "fusion.stages.": ("ann", _ANN),
    "ema_module.": ("emanet", _EMANET),
    "enc_module.": ("encnet", _ENCNET),
    "1.object_context_block.": ("ocr", _OCR),
    "conv_cat.": ("fcn", _FCN),  # last: other heads have it too
}


def head_mapping(network: str) -> KeyMapping:
    """Key mapping of the head and the auxiliary head of ``network``."""
    mapping = dict(HEADS.values())[network]
    whole = {f"decode_head.{source}": f"head.{target}" for source, target in mapping.items()}
    return whole | _AUXILIARY


# Head (FCN-D6 has its dilation in the name), backbone, stride, multi-grid of published files.
_PUBLISHED = re.compile(
    r"(?P<head>[a-z0-9]+?)(?P<d6>[-_]d6)?_r(?:18|50|101|152)[a-d]?"
    r"-d(?P<stride>8|16|32)(?P<grid>-mg124)?(?=[_.-])"
)
_CROP = re.compile(r"[_-](\d{3,4}x\d{3,4})(?=[_.-])")
_PUBLISHED_HEADS = {"isanet": "isa", "ocrnet": "ocr", "dnlnet": "dnl"}  # others are named as here


def _design(source: Source, options: Options) -> Design:
    network = _network(source)
    backbone, mapping = find_backbone(source, "backbone.", basic=True)
    config = read_config(source.name, source.content)
    count = source.rows("decode_head.conv_seg.weight", "decode_head.1.conv_seg.weight")
    if count == 1 and network == "ocr":
        raise UserError(
            f"'{source.name}' is an OCR with one output channel, whose one region cannot be built "
            "with two classes; train it with two output channels"
        )
    settings = _settings(source.name, network, config, options, binary=count == 1)
    importer: Callable[[str, Tensor], Tensor] = _import_tensor
    if count == 1:
        importer = partial(_import_binary, check_threshold(settings["threshold"].value))
    further: dict[str, Any] = {"dilate_second": False} if is_basic(backbone) else {}
    if network == "deeplabv3plus":
        further["low_level"] = source.rows("decode_head.c1_bottleneck.conv.weight")
    return Design(
        network,
        "mmseg",
        backbone,
        mapping | head_mapping(network),
        _classes(source.content, count) if count > 1 else _binary_classes(source.content),
        settings["preprocessing"].value,
        {**arguments(settings), **further, "auxiliary": source.has("auxiliary_head.")},
        import_tensor=importer,
        settings=settings,
    )


def _settings(
    file: str,
    network: str,
    config: Config | None,
    options: Options,
    *,
    binary: bool = False,
) -> dict[str, Setting]:
    named = _name_settings(file, network)
    held = config.settings(network) if config else {}
    released: dict[str, Any] = {
        "output_stride": 32 if network == "upernet" else 8,
        "multi_grid": (),
        "contract_dilation": True,  # so in all published configs
        "align_corners": False,
        "preprocessing": RGB_255,
    }
    if network in HEAD_OPTIONS:
        option, _, default = HEAD_OPTIONS[network]
        released[option] = default
    if binary:
        released["threshold"] = 0.3  # mmsegmentation's default
        held |= {"threshold": config.threshold()} if config else {}
    settings = settle(options, held, named, **released)
    if network.startswith("deeplabv3") and "rates" not in held:
        rates = [rate * 8 // settings["output_stride"].value for rate in (12, 24, 36)]
        settings["rates"] = Setting(rates, settings["output_stride"].origin)
    return settings


def _name_settings(file: str, network: str) -> dict[str, Any]:
    """What a published file name says; an arbitrary name says nothing.

    >>> _name_settings("pspnet_r50-d32_769x769_80k_cityscapes.pth", "pspnet")
    {'output_stride': 32, 'multi_grid': (), 'align_corners': True}
    >>> _name_settings("my-d16-run.pth", "pspnet")
    {}
    """
    published = _PUBLISHED.match(file)
    if published is None:
        return {}
    head = published["head"]
    if _PUBLISHED_HEADS.get(head, head) != network:
        return {}
    settings: dict[str, Any] = {
        "output_stride": int(published["stride"]),
        "multi_grid": (1, 2, 4) if published["grid"] else (),
    }
    crop = _CROP.search(file, published.end())
    if crop is not None:  # true in all published configs of that crop
        settings["align_corners"] = crop[1] == "769x769"
    if network == "fcn":
        settings["dilation"] = 6 if published["d6"] else 1
    return settings


def _import_tensor(key: str, tensor: Tensor) -> Tensor:
    """EMANet's bases are stored (1, C, K); they are (K, C) here."""
    if key.endswith("ema_module.bases") and tensor.ndim == 3:
        return tensor[0].t()  # (K, C)
    return unsqueeze_scale(key, tensor)


def _import_binary(threshold: float, key: str, tensor: Tensor) -> Tensor:
    """Of a network with one output channel: two rows for the one of each classifier."""
    if key.rpartition(".")[0].endswith("conv_seg"):
        return two_rows(tensor, threshold)
    return _import_tensor(key, tensor)


def export_tensor(key: str, tensor: Tensor) -> Tensor:
    """The inverse of :func:`_import_tensor`."""
    if key.endswith("ema_module.bases"):
        return tensor.t()[None]  # (1, C, K)
    return tensor.reshape(()) if key.endswith("gamma.scale") else tensor


def _network(source: Source) -> str:
    for prefix, (network, _) in HEADS.items():
        if source.has(f"decode_head.{prefix}"):
            return network
    known = ", ".join(network for network, _ in HEADS.values())
    raise UserError(
        f"'{source.name}' is from mmsegmentation, with a head that is not supported; known heads "
        f"are {known}"
    )


def _classes(content: Mapping[str, Any], count: int) -> Classes:
    """The file's ``CLASSES`` and ``PALETTE``, or ``dataset_meta``, if their number matches.

    1.x has ``dataset_meta`` in ``meta``; deployed and older 1.x files have it beside the tensors.
    """
    meta = _mapping(content.get("meta"))
    places = (content.get("dataset_meta"), meta, meta.get("dataset_meta"))
    lower = {str(key).lower(): value for p in places for key, value in _mapping(p).items()}
    names, palette = lower.get("classes"), lower.get("palette")
    if isinstance(names, str) or not isinstance(names, Sequence) or len(names) != count:
        return likely_classes(count)
    palette = palette if isinstance(palette, Sequence) else ()
    try:
        colors: tuple[Color, ...] = tuple((int(r), int(g), int(b)) for r, g, b in palette)
    except (TypeError, ValueError):
        colors = ()
    return Classes(
        tuple(str(name) for name in names),
        colors if len(colors) == count else distinct_colors(count),
    )


def _binary_classes(content: Mapping[str, Any]) -> Classes:
    """The file's two classes; its one class after ``background``; or ``object``."""
    two, one = _classes(content, 2), _classes(content, 1)
    if two != likely_classes(2):
        return two
    known = one != likely_classes(1) and one.names != ("background",)
    return binary_classes(one.names[0]) if known else binary_classes()


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _matches(tensors: Tensors) -> bool:
    return any(key.startswith("decode_head.") for key in tensors)


FAMILIES = {"mmseg": Family("an mmsegmentation checkpoint", _matches, _design)}
