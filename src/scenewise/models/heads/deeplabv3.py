"""DeepLabV3: atrous spatial pyramid pooling."""

from collections.abc import Sequence

from torch import nn

from scenewise.attention.layers import conv_norm
from scenewise.models.heads.base import Head
from scenewise.models.layers import classifier, head_width, named_sequential
from scenewise.models.pooling import ASPP


def deeplabv3(
    channels: Sequence[int],
    classes: int,
    *,
    variant: str = "torchvision",
    width: int | None = None,
    rates: Sequence[int] | None = None,
    output_stride: int = 8,
) -> nn.Module:
    """ASPP, then the layers that the published code has before its classifier.

    The authors' code is in TensorFlow; the default is torchvision's, which has public weights.
    Widths are for a feature map of 2048 channels. Rates are 12, 24, 36 at output stride 8 and 6,
    12, 18 at 16.

    =============== ===== =============== ====================================================
    variant         width projection      then
    =============== ===== =============== ====================================================
    ``torchvision`` 256   1x1             Dropout 0.5, 3x3 convolution, classifier
    ``encoding``    256   1x1             Dropout2d 0.5, 3x3 convolution, Dropout 0.1, classifier
    ``mmseg``       512   3x3             Dropout2d 0.1, classifier
    ``ccnet``       256   1x1 to 512      Dropout2d 0.1, classifier; leaky ReLU 0.01
    =============== ===== =============== ====================================================
    """
    inputs = channels[-1]
    rates = rates or [rate * 8 // output_stride for rate in (12, 24, 36)]  # of stride 8
    if variant == "mmseg":
        width = width or head_width(inputs)
        context: nn.Module = ASPP(inputs, width, rates, kernel=3, pool_first=True)
        return Head(context, classifier(width, classes, 0.1))
    width = width or head_width(inputs // 2)  # 256 for 2048 channels
    if variant == "ccnet":
        context = ASPP(inputs, width, rates, out_channels=2 * width, pool_first=True, slope=0.01)
        return Head(context, classifier(2 * width, classes, 0.1))
    plain = variant == "torchvision"
    context = named_sequential(
        pool=ASPP(inputs, width, rates),
        dropout=nn.Dropout(0.5) if plain else nn.Dropout2d(0.5),
        refine=conv_norm(width, width, 3),
    )
    return Head(context, classifier(width, classes, 0.0 if plain else 0.1, dropout2d=False))
