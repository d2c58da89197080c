"""``create_model``: a network by its name, from :mod:`scenewise.models.zoo`."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from scenewise.classes import Classes
from scenewise.errors import UserError, choose
from scenewise.models.backbone import Backbone, TinyBackbone, create_backbone, is_resnet
from scenewise.models.heads.low_level import LowLevelHead
from scenewise.models.preprocessing import Preprocessing
from scenewise.models.segmenter import Segmenter
from scenewise.models.variants import Variant
from scenewise.models.zoo import NETWORKS, Network

# Options of a head that create_model settles for backbone and head together.
_SHARED = ("variant", "output_stride", "align_corners")
_BACKBONE_OPTIONS = (
    "output_stride",
    "multi_grid",
    "contract_dilation",
    "ceil_pool",
    "dilate_second",
    "in_channels",
)


def list_models() -> list[str]:
    """The names that :func:`create_model` accepts.

    >>> list_models()[:2]
    ['ann', 'cbam']
    """
    return sorted(NETWORKS)


def create_model(  # noqa: PLR0913 - the options of config.json, each with a default
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
    dilate_second: bool = True,
    in_channels: int = 3,
    auxiliary: bool | None = None,
    auxiliary_weight: float | None = None,
    align_corners: bool | None = None,
    low_level: int | None = None,
    **head: Any,
) -> Segmenter:
    """Build a network by name. An argument that is None takes the published code's setting.

    Args:
        name: see :func:`list_models`.
        num_classes: K; or give ``classes``.
        classes: names and colours; numbered classes if only ``num_classes`` is given.
        variant: which published code, where there are several; the default is the authors'.
        backbone: ``"tiny"`` or the name of a timm model.
        pretrained: start the backbone from timm's ImageNet weights (downloaded once).
        backbone_weights: a file to start the backbone from instead, whole or partial.
        output_stride: 8, 16 or 32 where the backbone can be dilated.
        multi_grid: absolute dilations of a ResNet's last stage, for example (4, 8, 16).
        contract_dilation: keep the smaller dilation in the first block of a ResNet's dilated stage.
        ceil_pool: let the pooling of a ResNet's stem round up.
        dilate_second: dilate the second convolution of a ResNet-18's or 34's blocks too.
        in_channels: of the images: 3 for RGB, 1 for grey, or those of a sensor.
        auxiliary: train with an auxiliary FCN head on the third stage.
        auxiliary_weight: its weight in the loss.
        align_corners: of the bilinear upsampling of logits.
        low_level: channels of the stride-4 feature map that DeepLabV3+'s decoder fuses with the
            context; 0 for no decoder. Default 48 in the networks with a ``plus``, else 0.
        **head: options of the head, for example ``similarity="direct"`` for ``danet``.

    Raises:
        UserError: an unknown name, variant, backbone or option, or no classes.

    >>> import torch
    >>> model = create_model("danet", num_classes=5, backbone="tiny")
    >>> model.eval()(torch.randn(1, 3, 32, 48)).logits.shape
    torch.Size([1, 5, 32, 48])
    """
    if name not in NETWORKS:
        raise UserError(f"unknown network '{name}'; {choose(name, list_models())}")
    network = NETWORKS[name]
    variant = next(iter(network.variants)) if variant is None else variant
    published = _published(name, network, variant)
    classes = _classes(num_classes, classes)
    settled = _settle(
        published,
        is_resnet(backbone),
        contract_dilation=contract_dilation,
        ceil_pool=ceil_pool,
        auxiliary=auxiliary,
        auxiliary_weight=auxiliary_weight,
        align_corners=align_corners,
    )
    grid = None if multi_grid is None else list(multi_grid)
    options = {"output_stride": output_stride, "multi_grid": grid, "variant": variant, **settled}
    if not dilate_second:  # only then in the recipe, which files written before do not have
        options["dilate_second"] = False
    if in_channels != 3:
        options["in_channels"] = _positive(in_channels)
    body = create_backbone(
        backbone,
        pretrained=pretrained,
        weights=backbone_weights,
        layers=network.layers,
        **{key: options[key] for key in _BACKBONE_OPTIONS if key in options},
    )
    decoder = _head(name, network, body.channels, len(classes), head, options)
    low_level = network.low_level if low_level is None else low_level
    if low_level or network.low_level:  # only then in the recipe, as above
        options["low_level"] = low_level
    if low_level:
        decoder = _with_low_level(decoder, body, low_level, options["align_corners"])
    auxiliary_head = None
    weights = dict(getattr(decoder, "loss_weights", {}))
    if options["auxiliary"]:
        auxiliary_head = published.auxiliary_head(body.channels, len(classes))
        weights["auxiliary"] = options["auxiliary_weight"]
    if published.initialise is not None:
        for part in filter(None, (decoder, auxiliary_head)):
            published.initialise(part)
    return Segmenter(
        body,
        decoder,
        auxiliary_head,
        classes=classes,
        preprocessing=_preprocessing(body, in_channels),
        align_corners=options["align_corners"],
        loss_weights=weights,
        recipe=_recipe({"name": name, "backbone": backbone, **options, **head}),
    )


def _settle(published: Variant, resnet: bool, **given: Any) -> dict[str, Any]:
    """The given options; those that are None take the published code's setting."""
    defaults = {
        **{key: getattr(published, key) for key in given},
        "contract_dilation": published.contract_dilation or not resnet,
        "ceil_pool": published.ceil_pool and resnet,
    }
    return {key: defaults[key] if value is None else value for key, value in given.items()}


def _positive(in_channels: int) -> int:
    if in_channels < 1:
        raise UserError(f"in_channels is {in_channels}; give the number of channels of the images")
    return in_channels


def _preprocessing(body: Backbone | TinyBackbone, channels: int) -> Preprocessing:
    """The backbone's own for RGB; else of values around the middle, until the data is known."""
    if channels == 3:
        return Preprocessing(mean=body.mean, std=body.std)
    return Preprocessing((0.5,) * channels, (0.25,) * channels, channel_order="data")


def _published(name: str, network: Network, variant: str) -> Variant:
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
    parameters = inspect.signature(network.head).parameters.values()
    accepted = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    known = [option for option in accepted if option not in _SHARED]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UserError(f"network '{name}' has no option '{unknown[0]}'; it has {', '.join(known)}")
    settled = {option: shared[option] for option in _SHARED if option in accepted}
    try:
        return network.head(channels, classes, **settled, **options)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"network '{name}' cannot be built with these options: {error}; change that option"
        ) from error


def _with_low_level(
    head: nn.Module, body: Backbone | TinyBackbone, reduced: int, align_corners: bool
) -> nn.Module:
    """The head with a decoder that fuses the stride-4 feature map."""
    if reduced < 0:
        raise UserError(f"low_level is {reduced}; give a number of channels, or 0 for no decoder")
    if 4 not in body.strides:
        raise UserError(
            f"low_level needs a feature map at stride 4, but the backbone's are at "
            f"{', '.join(map(str, body.strides))}; choose a CNN, or set low_level to 0"
        )
    stage = body.strides.index(4)
    return LowLevelHead(
        head, body.channels[stage], reduced, stage=stage, align_corners=align_corners
    )


def _recipe(arguments: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments, or None where they hold modules, which a file cannot restore."""
    values = list(arguments.values())
    while values:
        value = values.pop()
        if isinstance(value, nn.Module):
            return None
        if isinstance(value, (list, tuple)):
            values.extend(value)
    return arguments
