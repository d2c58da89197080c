"""Names of ResNet layers in published codes, translated to timm's."""

from collections.abc import Mapping

from torch import Tensor

_DEPTHS = {6: "50", 23: "101", 36: "152"}  # blocks of the third stage
_BASIC_DEPTHS = {2: "18", 6: "34"}  # of basic blocks, with two convolutions
_STEMS = {32: "c", 64: "s"}  # channels of a deep stem's first convolution

# Names of the stem's layers in published codes -> timm's names.
DEEP_STEM = {  # as one sequence
    "0": "conv1.0",
    "1": "conv1.1",
    "3": "conv1.3",
    "4": "conv1.4",
    "6": "conv1.6",
    "7": "bn1",
}
_NUMBERED = {
    "conv1": "conv1.0",
    "bn1": "conv1.1",
    "conv2": "conv1.3",
    "bn2": "conv1.4",
    "conv3": "conv1.6",
    "bn3": "bn1",
}
_CHILDREN = {  # in a sequence, after ReLU and pooling; the first may be a deep stem's sequence
    "0": "conv1",
    "1": "bn1",
    **{str(3 + i): f"layer{i}" for i in (1, 2, 3, 4)},
}
_STAGES = {f"layer{i}": f"layer{i}" for i in (1, 2, 3, 4)}  # the same everywhere


def resnet_mapping(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, str]:
    """Names of the ResNet's layers under ``prefix`` -> timm's names; empty if not found.

    ================================= ================================================
    stem                              used by
    ================================= ================================================
    ``conv1``, ``bn1``                torchvision, timm, the DANet checkpoint (7x7)
    ``conv1.0`` ... ``bn1``           timm, PyTorch-Encoding
    ``stem.0`` ... ``stem.7``         mmsegmentation
    ``layer0.0`` ... ``layer0.7``     semseg
    ``conv1``, ..., ``bn3``           MIT's ImageNet weights, CCNet, OCNet
    ``resinit.conv1``, ...            openseg
    ``0``, ``1``, ``4`` ... ``7``     EMANet, and any sequence of a ResNet's children
    ================================= ================================================

    >>> import torch
    >>> one = torch.zeros(1)
    >>> names = resnet_mapping({"net.stem.0.weight": one, "net.layer1.0.conv1.weight": one}, "net.")
    >>> names["net.stem.7"], names["net.layer1"]
    ('bn1', 'layer1')
    """
    if f"{prefix}4.0.conv1.weight" in tensors and f"{prefix}1.weight" in tensors:
        return {prefix + external: name for external, name in _CHILDREN.items()}
    stem = _stem(tensors, prefix)
    if not stem or not any(key.startswith(f"{prefix}layer1.") for key in tensors):
        return {}
    return {prefix + external: name for external, name in (stem | _STAGES).items()}


def resnet_name(tensors: Mapping[str, Tensor], mapping: Mapping[str, str]) -> str | None:
    """timm's name of the ResNet whose layers :func:`resnet_mapping` found; None if unknown.

    The blocks of the third stage give the depth, the first convolution the stem: 7x7
    (``resnet50``), 32, 32, 64 channels (``resnet50c``) or 64, 64, 128 (``resnet50s``).
    """
    external = {name: prefix for prefix, name in mapping.items()}
    stage = f"{external['layer3']}."
    blocks = {key[len(stage) :].split(".")[0] for key in tensors if key.startswith(stage)}
    basic = f"{stage}0.conv3.weight" not in tensors
    depth = (_BASIC_DEPTHS if basic else _DEPTHS).get(len(blocks))
    deep = "conv1.0" in external
    first = tensors.get(f"{external['conv1.0' if deep else 'conv1']}.weight")
    if first is None and not deep:  # a sequence as the first of the children
        first, deep = tensors.get(f"{external['conv1']}.0.weight"), True
    if depth is None or first is None:
        return None
    stem = _STEMS.get(first.shape[0]) if deep else ""
    unknown = stem is None or (basic and stem == "s")
    return None if unknown else f"resnet{depth}{stem}"


def is_basic(name: str) -> bool:
    """Whether timm's ``name`` is a ResNet of basic blocks.

    >>> is_basic("resnet18c"), is_basic("resnet50")
    (True, False)
    """
    return name.rstrip("c") in ("resnet18", "resnet34")


def timm_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ResNet's tensors under timm's names, from any of the published layouts.

    Backbones of whole networks (``backbone.``, ``pretrained.``) are found too, without their heads.
    Tensors of an unknown layout are returned unchanged.

    >>> import torch
    >>> one = torch.zeros(1)
    >>> list(timm_names({"backbone.layer0.7.bias": one, "backbone.layer0.0.weight": one,
    ...                  "backbone.layer1.0.conv1.weight": one, "cls.weight": one}))
    ['bn1.bias', 'conv1.0.weight', 'layer1.0.conv1.weight']
    """
    for prefix in ("", "backbone.", "pretrained.", "encoder.", "extractor."):
        mapping = resnet_mapping(tensors, prefix)
        if mapping:
            renamed = {key: rename(key, mapping) for key in tensors}
            if not prefix:  # a bare backbone: keep what is not in a stage, such as fc
                renamed = {key: name or key for key, name in renamed.items()}
            return {name: tensors[key] for key, name in renamed.items() if name is not None}
    return dict(tensors)


def rename(key: str, mapping: Mapping[str, str]) -> str | None:
    """``key`` with its longest known prefix replaced; None if it has no known prefix.

    >>> rename("head.conv.0.weight", {"head": "a", "head.conv.0": "b.1"}), rename("x", {"y": "z"})
    ('b.1.weight', None)
    """
    prefix = key
    while prefix not in mapping:
        if "." not in prefix:
            return None
        prefix = prefix.rpartition(".")[0]
    return mapping[prefix] + key[len(prefix) :]


def _stem(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, str]:
    def has(name: str) -> bool:
        return f"{prefix}{name}.weight" in tensors

    for part in ("stem", "layer0"):
        if has(f"{part}.0"):
            return {f"{part}.{index}": name for index, name in DEEP_STEM.items()}
    if has("conv1.0"):
        return {"conv1": "conv1", "conv1.0": "conv1.0", "bn1": "bn1"}
    for part in ("", "resinit."):
        if has(f"{part}conv1"):
            layers = _NUMBERED if has(f"{part}conv3") else {"conv1": "conv1", "bn1": "bn1"}
            return {part + external: name for external, name in layers.items()}
    return {}
