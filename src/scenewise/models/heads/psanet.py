"""PSANet: point-wise spatial attention."""

from collections.abc import Sequence

from torch import nn

from scenewise.attention import PointwiseSpatial
from scenewise.attention.layers import conv_norm
from scenewise.models.heads.base import Head
from scenewise.models.layers import ConcatInput, classifier, head_width, named_sequential


def psanet(
    channels: Sequence[int],
    classes: int,
    *,
    size: Sequence[int] = (59, 59),
    width: int | None = None,
    dropout: float = 0.1,
) -> nn.Module:
    """Point-wise spatial attention, concatenated with its input, then a 3x3 convolution.

    ``size`` is the largest feature map on which all pairs of pixels are attended: 59 x 59 is a
    crop of 465 at stride 8, as in the authors' code.
    """
    width, inputs = width or head_width(channels[-1]), channels[-1]
    rows, columns = size
    block = PointwiseSpatial(inputs, (rows, columns), inner=width)
    context = named_sequential(join=ConcatInput(block), bottleneck=conv_norm(2 * inputs, width, 3))
    return Head(context, classifier(width, classes, dropout))
