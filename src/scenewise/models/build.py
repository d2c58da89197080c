"""Networks by name."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.models.backbone import create_backbone, is_resnet
from scenewise.models.preprocessing import Preprocessing
from scenewise.models.segmenter import Segmenter
from scenewise.models.variants import Variant
from scenewise.models.zoo import NETWORKS, Network

# Options of a head that create_model settles for backbone and head together.
_SHARED = ("variant", "output_stride", "align_corners")


def list_models() -> list[str]:
    """The names that :func:`create_model` takes.

    >>> list_models()[:2]
    ['ann', 'cbam']
    """
    return sorted(NETWORKS)


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    classes: Classes | None = None,
    variant: str | None = None,
    backbone: str = "resnet101",
    pretrained: bool = True,
    backbone_weights: str | Path | None = None,
    output_stride: int = 8,
    multi_grid: Sequence[int] | None = None,
    contract_dilation: bool | None = None,
    ceil_pool: bool | None = None,
    auxiliary: bool | None = None,
    auxiliary_weight: float | None = None,
    align_corners: bool | None = None,
    **head: Any,
) -> Segmenter:
    """Build a network by name. Where an argument is None, the published code decides.

    Args:
        name: see :func:`list_models`.
        num_classes: K; or give ``classes``.
        classes: names and colours; numbered classes if only ``num_classes`` is given.
        variant: whose code, where several are published; the default is the authors'.
        backbone: ``"tiny"`` or the name of a timm model.
        pretrained: start the backbone from timm's ImageNet weights (downloads them once).
        backbone_weights: a file to start the backbone from instead, whole or partial.
        output_stride: 8, 16 or 32 where the backbone can be dilated.
        multi_grid: absolute dilations of a ResNet's last stage, for example (4, 8, 16).
        contract_dilation: keep the dilation small in the first block of a ResNet's dilated stage.
        ceil_pool: let the pooling of a ResNet's stem round up.
        auxiliary: a side FCN head on the third stage in training.
        auxiliary_weight: its weight in the loss.
        align_corners: how scores are upsampled.
        **head: options of the head, for example ``similarity="direct"`` for ``danet``.

    Raises:
        UserError: an unknown name, variant, backbone or option, or no class.

    >>> import torch
    >>> model = create_model("danet", num_classes=5, backbone="tiny")
    >>> model.eval()(torch.randn(1, 3, 32, 48)).logits.shape
    torch.Size([1, 5, 32, 48])
    """
    network = _network(name)
    variant = next(iter(network.variants)) if variant is None else variant
    published = _variant(name, network, variant)
    classes = _classes(num_classes, classes)
    resnet = is_resnet(backbone)
    around = {
        "output_stride": output_stride,
        "multi_grid": None if multi_grid is None else list(multi_grid),
        "contract_dilation": _or(contract_dilation, published.contract_dilation or not resnet),
        "ceil_pool": _or(ceil_pool, published.ceil_pool and resnet),
    }
    outside = {
        "variant": variant,
        "auxiliary": _or(auxiliary, published.auxiliary),
        "auxiliary_weight": _or(auxiliary_weight, published.auxiliary_weight),
        "align_corners": _or(align_corners, published.align_corners),
    }
    body = create_backbone(backbone, pretrained=pretrained, weights=backbone_weights, **around)
    decoder = _head(name, network, body.channels, len(classes), head, {**around, **outside})
    side = published.side(body.channels, len(classes)) if outside["auxiliary"] else None
    if published.initialise is not None:
        for part in filter(None, (decoder, side)):
            published.initialise(part)
    weights = dict(getattr(decoder, "loss_weights", {}))
    if side is not None:
        weights["auxiliary"] = outside["auxiliary_weight"]
    return Segmenter(
        body,
        decoder,
        side,
        classes=classes,
        preprocessing=Preprocessing(mean=body.mean, std=body.std),
        align_corners=outside["align_corners"],
        loss_weights=weights,
        recipe=_recipe({"name": name, "backbone": backbone, **around, **outside, **head}),
    )


def _network(name: str) -> Network:
    if name not in NETWORKS:
        raise UserError(f"no network '{name}'; choose one of {', '.join(list_models())}")
    return NETWORKS[name]


def _variant(name: str, network: Network, variant: str) -> Variant:
    if variant not in network.variants:
        known = ", ".join(network.variants)
        raise UserError(f"network '{name}' has no variant '{variant}'; it has {known}")
    return network.variants[variant]


def _classes(count: int | None, classes: Classes | None) -> Classes:
    if classes is None:
        if not count:
            raise UserError("a network needs classes; give num_classes of at least 1, or classes")
        return Classes.numbered(count)
    if count is not None and count != len(classes):
        raise UserError(f"num_classes is {count} but {len(classes)} classes are given; give one")
    return classes


def _head(
    name: str,
    network: Network,
    channels: Sequence[int],
    classes: int,
    options: dict[str, Any],
    shared: dict[str, Any],
) -> nn.Module:
    taken = [
        p.name
        for p in inspect.signature(network.head).parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    known = [option for option in taken if option not in _SHARED]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UserError(f"network '{name}' has no option '{unknown[0]}'; it has {', '.join(known)}")
    given = {option: shared[option] for option in _SHARED if option in taken}
    try:
        return network.head(channels, classes, **given, **options)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"network '{name}' cannot be built so: {error}; change that option"
        ) from error


def _recipe(arguments: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments, or None where they hold modules, which no file can bring back."""
    values = list(arguments.values())
    while values:
        value = values.pop()
        if isinstance(value, nn.Module):
            return None
        if isinstance(value, (list, tuple)):
            values.extend(value)
    return arguments


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
