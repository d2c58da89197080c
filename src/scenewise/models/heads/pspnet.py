"""PSPNet: pyramid pooling."""

from collections.abc import Sequence

from torch import nn

from scenewise.attention.layers import conv_norm
from scenewise.models.heads.base import Head
from scenewise.models.layers import classifier, head_width, named_sequential
from scenewise.models.pooling import PyramidPooling


def pspnet(
    channels: Sequence[int],
    classes: int,
    *,
    width: int | None = None,
    bins: Sequence[int] = (1, 2, 3, 6),
    dropout: float = 0.1,
    align_corners: bool = True,
) -> nn.Module:
    """Pyramid pooling, a 3x3 convolution, the classifier; the same in all codes."""
    width = width or head_width(channels[-1])
    pooling = PyramidPooling(channels[-1], width, bins, align_corners=align_corners)
    context = named_sequential(pool=pooling, bottleneck=conv_norm(pooling.out_channels, width, 3))
    return Head(context, classifier(width, classes, dropout))
