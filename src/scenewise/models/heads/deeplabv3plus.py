"""DeepLabV3+'s context: separable atrous pyramid pooling; the decoder is low_level's."""

from collections.abc import Sequence

from torch import nn

from scenewise.models.heads.base import Head
from scenewise.models.layers import classifier, head_width
from scenewise.models.pooling import ASPP


def deeplabv3plus(
    channels: Sequence[int],
    classes: int,
    *,
    width: int | None = None,
    rates: Sequence[int] | None = None,
    dropout: float = 0.1,
    output_stride: int = 8,
) -> nn.Module:
    """ASPP of separable convolutions (Chen et al., ECCV 2018), as in mmsegmentation.

    The authors' code is in TensorFlow and has width 256; mmsegmentation has 512 and a 3x3
    convolution after the pyramid. Rates are 12, 24, 36 at output stride 8 and 6, 12, 18 at 16.
    :class:`scenewise.models.heads.low_level.LowLevelHead` is its decoder.
    """
    width = width or head_width(channels[-1])
    rates = rates or [rate * 8 // output_stride for rate in (12, 24, 36)]  # of stride 8
    context = ASPP(channels[-1], width, rates, kernel=3, pool_first=True, separable=True)
    return Head(context, classifier(width, classes, dropout))
