"""One attention block between two convolutions: shared branches, and networks without own code.

DANet's branch is a 3x3 convolution to a quarter of the channels, the block, and another 3x3
convolution. CCNet, and mmsegmentation in all its heads, concatenate the result with the
backbone's feature map and add a third 3x3 convolution.
"""

from collections.abc import Sequence

from torch import nn

from scenewise.attention import (
    CBAM,
    ChannelAttention,
    PositionAttention,
    SAGANAttention,
    SqueezeExcite,
)
from scenewise.attention.channel import Similarity
from scenewise.attention.layers import conv_norm
from scenewise.models.heads.base import Head
from scenewise.models.layers import ConcatInput, classifier, head_width, named_sequential


def branch(
    inputs: int,
    block: nn.Module,
    width: int,
    slope: float = 0.0,
    outputs: int | None = None,
    dilation: int = 1,
) -> nn.Sequential:
    """``block`` between two 3x3 convolutions: (B, inputs, H, W) -> (B, outputs or width, H, W)."""
    return named_sequential(
        reduce=conv_norm(inputs, width, 3, dilation=dilation, slope=slope),  # (B, width, H, W)
        block=block,
        refine=conv_norm(width, outputs or width, 3, dilation=dilation, slope=slope),
    )


def concat_branch(
    inputs: int,
    block: nn.Module,
    width: int,
    slope: float = 0.0,
    outputs: int | None = None,
    dilation: int = 1,
) -> nn.Sequential:
    """:func:`branch` concatenated with its input, then a 3x3 convolution (never dilated)."""
    outputs = outputs or width
    return named_sequential(
        join=ConcatInput(branch(inputs, block, width, slope, outputs, dilation)),
        bottleneck=conv_norm(inputs + outputs, outputs, 3, slope=slope),
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
