"""The networks by name: short builders and one visible table."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from scenewise.attention import ChannelAttention, PositionAttention
from scenewise.attention.channel import Similarity
from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.models.backbone import create_backbone
from scenewise.models.heads import AttentionHead, DANetHead, FCNHead, head_width
from scenewise.models.segmenter import Preprocessing, Segmenter


def position(
    channels: Sequence[int], classes: int, *, width: int | None = None, dropout: float = 0.1
) -> nn.Module:
    """DANet's position branch alone."""
    width = width or head_width(channels[-1])
    block = PositionAttention(width)
    return AttentionHead(channels, classes, block=block, width=width, dropout=dropout)


def channel(
    channels: Sequence[int],
    classes: int,
    *,
    width: int | None = None,
    dropout: float = 0.1,
    similarity: Similarity = "reversed",
) -> nn.Module:
    """DANet's channel branch alone."""
    width = width or head_width(channels[-1])
    block = ChannelAttention(width, similarity)
    return AttentionHead(channels, classes, block=block, width=width, dropout=dropout)


@dataclass(frozen=True)
class Network:
    """How a named network is built, and where it comes from.

    Attributes:
        head: (channels of the maps, number of classes, **options) -> head.
        paper: its short reference.
        auxiliary: whether the published code trains a side head on the third stage.
    """

    head: Callable[..., nn.Module]
    paper: str
    auxiliary: bool = False


NETWORKS: dict[str, Network] = {
    "fcn": Network(FCNHead, "Long et al., CVPR 2015"),
    "position": Network(position, "Fu et al., CVPR 2019"),
    "channel": Network(channel, "Fu et al., CVPR 2019"),
    "danet": Network(DANetHead, "Fu et al., CVPR 2019"),
}


def list_models() -> list[str]:
    """The names that :func:`create_model` takes.

    >>> list_models()[:2]
    ['channel', 'danet']
    """
    return sorted(NETWORKS)


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    classes: Classes | None = None,
    backbone: str = "resnet101",
    pretrained: bool = True,
    backbone_weights: str | Path | None = None,
    output_stride: int = 8,
    multi_grid: Sequence[int] | None = None,
    auxiliary: bool | None = None,
    auxiliary_weight: float = 0.4,
    align_corners: bool = True,
    **head: Any,
) -> Segmenter:
    """Build a network by name.

    Args:
        name: see :func:`list_models`.
        num_classes: K; or give ``classes``.
        classes: names and colours; numbered classes if only ``num_classes`` is given.
        backbone: ``"tiny"`` or the name of a timm model.
        pretrained: start the backbone from timm's ImageNet weights (downloads them once).
        backbone_weights: a file to start the backbone from instead, whole or partial.
        output_stride: 8, 16 or 32 where the backbone can be dilated.
        multi_grid: absolute dilations of a ResNet's last stage, for example (4, 8, 16).
        auxiliary: a side FCN head on the third stage in training; None: as published.
        auxiliary_weight: its weight in the loss.
        align_corners: how scores are enlarged; True in DANet.
        **head: options of the head, for example ``similarity="direct"`` for ``danet``.

    Raises:
        UserError: an unknown name, backbone or option, or no class.

    >>> import torch
    >>> model = create_model("danet", num_classes=5, backbone="tiny")
    >>> model.eval()(torch.randn(1, 3, 32, 48)).logits.shape
    torch.Size([1, 5, 32, 48])
    """
    network = _network(name)
    classes = _classes(num_classes, classes)
    auxiliary = network.auxiliary if auxiliary is None else auxiliary
    body = create_backbone(
        backbone,
        output_stride=output_stride,
        multi_grid=multi_grid,
        pretrained=pretrained,
        weights=backbone_weights,
    )
    decoder = _head(name, network, body.channels, len(classes), head)
    weights = dict(getattr(decoder, "loss_weights", {}))
    side = None
    if auxiliary:
        side = FCNHead(body.channels, len(classes), stage=-2)
        weights["auxiliary"] = auxiliary_weight
    return Segmenter(
        body,
        decoder,
        side,
        classes=classes,
        preprocessing=Preprocessing(mean=body.mean, std=body.std),
        align_corners=align_corners,
        loss_weights=weights,
        recipe={
            "name": name,
            "backbone": backbone,
            "output_stride": output_stride,
            "multi_grid": None if multi_grid is None else list(multi_grid),
            "auxiliary": auxiliary,
            "auxiliary_weight": auxiliary_weight,
            "align_corners": align_corners,
            **head,
        },
    )


def _network(name: str) -> Network:
    if name not in NETWORKS:
        raise UserError(f"no network '{name}'; choose one of {', '.join(list_models())}")
    return NETWORKS[name]


def _classes(count: int | None, classes: Classes | None) -> Classes:
    if classes is None:
        if not count:
            raise UserError("a network needs classes; give num_classes of at least 1, or classes")
        return Classes.numbered(count)
    if count is not None and count != len(classes):
        raise UserError(f"num_classes is {count} but {len(classes)} classes are given; give one")
    return classes


def _head(
    name: str, network: Network, channels: Sequence[int], classes: int, options: dict[str, Any]
) -> nn.Module:
    known = [
        p.name
        for p in inspect.signature(network.head).parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UserError(f"network '{name}' has no option '{unknown[0]}'; it has {', '.join(known)}")
    try:
        return network.head(channels, classes, **options)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"network '{name}' cannot be built so: {error}; change that option"
        ) from error
