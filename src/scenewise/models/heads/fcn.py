"""The dilated FCN: the baseline, and the auxiliary head of most networks."""

from collections.abc import Sequence

from torch import Tensor, nn

from scenewise.attention.layers import conv_norm
from scenewise.models.heads.base import Head, HeadOutput
from scenewise.models.heads.single_block import concat_branch
from scenewise.models.layers import classifier, head_width


class FCNHead(nn.Module):
    """Dilated FCN (Long et al., CVPR 2015; the baseline of the DANet paper).

    3x3 convolution, batch norm, ReLU, dropout, 1x1 convolution to the classes.

    Args:
        channels: of the backbone's feature maps.
        classes: K.
        stage: index of the feature map: -1 the last, -2 the third stage of a ResNet.
        width: channels between the convolutions; default a quarter of the input's, at least 64.
        dropout: probability.
        dropout2d: drop whole channels, as in mmsegmentation; else single elements, as in
            PyTorch-Encoding, which DANet's code builds on, and in torchvision.
        bias: of the 3x3 convolution; CCNet and OCNet have it.
        slope: of the leaky ReLU, see :func:`scenewise.attention.layers.conv_norm`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        *,
        stage: int = -1,
        width: int | None = None,
        dropout: float = 0.1,
        dropout2d: bool = False,
        bias: bool = False,
        slope: float | None = 0.0,
    ) -> None:
        super().__init__()
        width = width or head_width(channels[stage])
        self.stage = stage
        self.reduce = conv_norm(channels[stage], width, 3, bias=bias, slope=slope)
        self.classify = classifier(width, classes, dropout, dropout2d=dropout2d)

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        """Feature maps -> logits at the size of the one that is used."""
        return HeadOutput(self.classify(self.reduce(features[self.stage])), {}, {})


def fcn(
    channels: Sequence[int],
    classes: int,
    *,
    variant: str = "official",
    width: int | None = None,
    dropout: float | None = None,
    dilation: int = 1,
) -> nn.Module:
    """FCN as a network.

    mmsegmentation has three 3x3 convolutions and concatenates the second one's output with the
    backbone's feature map; the other codes have one convolution. OCNet's baseline has leaky ReLU.
    ``dilation`` is that of mmsegmentation's first two convolutions: 6 in FCN-D6.
    """
    if dilation < 1 or (dilation > 1 and variant != "mmseg"):
        raise ValueError(f"dilation {dilation} needs a positive number and variant 'mmseg'")
    if dropout is None:
        dropout = 0.05 if variant == "ocnet" else 0.1
    if variant == "ocnet":
        return FCNHead(
            channels,
            classes,
            width=width,
            dropout=dropout,
            dropout2d=True,
            bias=True,
            slope=0.01,  # InPlaceABN's leaky ReLU
        )
    if variant != "mmseg":
        return FCNHead(channels, classes, width=width, dropout=dropout)
    width = width or head_width(channels[-1])
    context = concat_branch(channels[-1], nn.Identity(), width, dilation=dilation)
    return Head(context, classifier(width, classes, dropout))
