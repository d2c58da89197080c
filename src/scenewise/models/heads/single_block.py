"""Heads with one attention block between two convolutions.

Two layouts serve them all. DANet's branch: 3x3 convolution to a quarter of the channels, block, 3x3
convolution, classifier. CCNet's, and mmsegmentation's for all its heads: the same, but the result
stands beside the backbone's map and goes through a third 3x3 convolution.
"""

from collections.abc import Sequence

from torch import nn

from scenewise.attention import (
    CBAM,
    ChannelAttention,
    CrissCrossAttention,
    DisentangledNonLocal,
    ExpectationMaximisation,
    GlobalContext,
    NonLocal,
    PointwiseSpatial,
    PositionAttention,
    SAGANAttention,
    SqueezeExcite,
)
from scenewise.attention.channel import Similarity
from scenewise.attention.layers import conv_norm
from scenewise.attention.non_local import Kind
from scenewise.models.heads.base import Head
from scenewise.models.layers import Beside, classifier, head_width, stack


def branch(inputs: int, block: nn.Module, width: int, slope: float = 0.0) -> nn.Sequential:
    """``block`` between two 3x3 convolutions: (B, inputs, H, W) -> (B, width, H, W)."""
    return stack(
        reduce=conv_norm(inputs, width, 3, slope=slope),
        block=block,
        refine=conv_norm(width, width, 3, slope=slope),
    )


def joined(inputs: int, block: nn.Module, width: int, slope: float = 0.0) -> nn.Sequential:
    """:func:`branch` beside its input, then a 3x3 convolution."""
    return stack(
        join=Beside(branch(inputs, block, width, slope)),
        bottleneck=conv_norm(inputs + width, width, 3, slope=slope),
    )


def position(
    channels: Sequence[int], classes: int, *, width: int | None = None, dropout: float = 0.1
) -> nn.Module:
    """DANet's position branch alone, the paper's ablation."""
    width = width or head_width(channels[-1])
    context = branch(channels[-1], PositionAttention(width), width)
    return Head(context, classifier(width, classes, dropout))


def channel(
    channels: Sequence[int],
    classes: int,
    *,
    width: int | None = None,
    dropout: float = 0.1,
    similarity: Similarity = "reversed",
) -> nn.Module:
    """DANet's channel branch alone, the paper's ablation."""
    width = width or head_width(channels[-1])
    context = branch(channels[-1], ChannelAttention(width, similarity), width)
    return Head(context, classifier(width, classes, dropout))


def sagan(
    channels: Sequence[int],
    classes: int,
    *,
    width: int | None = None,
    pooled: bool = False,
    spectral_norm: bool = True,
    dropout: float = 0.1,
) -> nn.Module:
    """SAGAN's attention in DANet's branch; the paper has no segmentation network."""
    width = width or head_width(channels[-1])
    block = SAGANAttention(width, pooled=pooled, spectral_norm=spectral_norm)
    return Head(branch(channels[-1], block, width), classifier(width, classes, dropout))


def squeeze_excite(
    channels: Sequence[int],
    classes: int,
    *,
    width: int | None = None,
    reduction: int = 16,
    dropout: float = 0.1,
) -> nn.Module:
    """SE in DANet's branch; the paper puts it into a backbone, timm's ``seresnet50``."""
    width = width or head_width(channels[-1])
    context = branch(channels[-1], SqueezeExcite(width, reduction), width)
    return Head(context, classifier(width, classes, dropout))


def cbam(
    channels: Sequence[int],
    classes: int,
    *,
    width: int | None = None,
    reduction: int = 16,
    kernel_size: int = 7,
    dropout: float = 0.1,
) -> nn.Module:
    """CBAM in DANet's branch; the paper puts it into a backbone."""
    width = width or head_width(channels[-1])
    context = branch(channels[-1], CBAM(width, reduction, kernel_size), width)
    return Head(context, classifier(width, classes, dropout))


def ccnet(
    channels: Sequence[int],
    classes: int,
    *,
    variant: str = "official",
    width: int | None = None,
    recurrence: int = 2,
    dropout: float = 0.1,
) -> nn.Module:
    """Criss-cross attention; leaky rectifiers in the authors' code, ReLU in mmsegmentation."""
    width = width or head_width(channels[-1])
    slope = 0.01 if variant == "official" else 0.0
    block = CrissCrossAttention(width, recurrence=recurrence)
    context = joined(channels[-1], block, width, slope)
    return Head(context, classifier(width, classes, dropout))


def nonlocal_(
    channels: Sequence[int],
    classes: int,
    *,
    width: int | None = None,
    kind: Kind = "embedded_gaussian",
    reduction: int = 2,
    use_scale: bool = True,
    dropout: float = 0.1,
) -> nn.Module:
    """A non-local block in mmsegmentation's head; the authors published video networks."""
    width = width or head_width(channels[-1])
    block = NonLocal(width, kind=kind, reduction=reduction, use_scale=use_scale, variant="mmcv")
    return Head(joined(channels[-1], block, width), classifier(width, classes, dropout))


def dnl(
    channels: Sequence[int],
    classes: int,
    *,
    variant: str = "official",
    width: int | None = None,
    temperature: float = 0.05,
    dropout: float = 0.1,
) -> nn.Module:
    """Disentangled non-local; head and side head are alike in both codes, the block is not."""
    width = width or head_width(channels[-1])
    block = DisentangledNonLocal(
        width, temperature=temperature, variant="mmseg" if variant == "mmseg" else "official"
    )
    return Head(joined(channels[-1], block, width), classifier(width, classes, dropout))


def gcnet(
    channels: Sequence[int],
    classes: int,
    *,
    width: int | None = None,
    reduction: int = 4,
    dropout: float = 0.1,
) -> nn.Module:
    """Global context in mmsegmentation's head; the authors published detectors."""
    width = width or head_width(channels[-1])
    block = GlobalContext(width, reduction)
    return Head(joined(channels[-1], block, width), classifier(width, classes, dropout))


def emanet(
    channels: Sequence[int],
    classes: int,
    *,
    variant: str = "official",
    width: int | None = None,
    bases: int = 64,
    stages: int = 3,
    dropout: float = 0.1,
) -> nn.Module:
    """Expectation-maximisation attention; the second 3x3 convolution halves the channels.

    mmsegmentation's stands beside the backbone's map and goes through a third. The authors train
    with ``multi_grid=(2, 8, 16)``.
    """
    width, inputs = width or head_width(channels[-1]), channels[-1]
    context = stack(
        reduce=conv_norm(inputs, width, 3),
        block=ExpectationMaximisation(width, bases, stages),
        refine=conv_norm(width, width // 2, 3),
    )
    if variant == "mmseg":
        bottleneck = conv_norm(inputs + width // 2, width // 2, 3)
        context = stack(join=Beside(context), bottleneck=bottleneck)
    return Head(context, classifier(width // 2, classes, dropout))


def psanet(
    channels: Sequence[int],
    classes: int,
    *,
    size: Sequence[int] = (59, 59),
    width: int | None = None,
    dropout: float = 0.1,
) -> nn.Module:
    """Point-wise spatial attention beside the map it works on, then a 3x3 convolution.

    ``size`` is the largest map on which all pairs of pixels meet: 59 x 59 is a crop of 465 at
    stride 8, as in the authors' code.
    """
    width, inputs = width or head_width(channels[-1]), channels[-1]
    height, across = size
    block = PointwiseSpatial(inputs, (height, across), inner=width)
    context = stack(join=Beside(block), bottleneck=conv_norm(2 * inputs, width, 3))
    return Head(context, classifier(width, classes, dropout))
