"""The dilated FCN: the baseline, and the side head of most networks."""

from collections.abc import Sequence

from torch import Tensor, nn

from scenewise.attention.layers import conv_norm
from scenewise.models.heads.base import Head, HeadOutput
from scenewise.models.heads.single_block import joined
from scenewise.models.layers import classifier, head_width


class FCNHead(nn.Module):
    """Dilated FCN (Long et al., CVPR 2015; the baseline of the DANet paper).

    3x3 convolution, batch norm, ReLU, dropout, 1x1 convolution to the classes.

    Args:
        channels: of the backbone's maps.
        classes: K.
        stage: which map is read, -1 the last, -2 the third stage of a ResNet.
        width: channels between the convolutions; default a quarter of the map's, at least 64.
        dropout: probability.
        drop_maps: drop whole maps, as in mmsegmentation; else single numbers, as in
            PyTorch-Encoding, on which DANet's code stands, and in torchvision.
        bias: of the 3x3 convolution; CCNet and OCNet have it.
        slope: of the rectifier, see :func:`scenewise.attention.layers.conv_norm`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        *,
        stage: int = -1,
        width: int | None = None,
        dropout: float = 0.1,
        drop_maps: bool = False,
        bias: bool = False,
        slope: float | None = 0.0,
    ) -> None:
        super().__init__()
        width = width or head_width(channels[stage])
        self.stage = stage
        self.reduce = conv_norm(channels[stage], width, 3, bias=bias, slope=slope)
        self.classify = classifier(width, classes, dropout, maps=drop_maps)

    def forward(self, maps: Sequence[Tensor]) -> HeadOutput:
        """Maps -> scores at the size of the map that is read."""
        return HeadOutput(self.classify(self.reduce(maps[self.stage])), {}, {})


def fcn(
    channels: Sequence[int],
    classes: int,
    *,
    variant: str = "official",
    width: int | None = None,
    dropout: float | None = None,
) -> nn.Module:
    """FCN as a network of its own.

    mmsegmentation has three 3x3 convolutions, the result of the second beside the backbone's map;
    the other codes have one. OCNet's baseline is leaky.
    """
    if variant == "ocnet":
        return FCNHead(
            channels,
            classes,
            width=width,
            dropout=_or(dropout, 0.05),
            drop_maps=True,
            bias=True,
            slope=0.01,
        )
    if variant != "mmseg":
        return FCNHead(channels, classes, width=width, dropout=_or(dropout, 0.1))
    width = width or head_width(channels[-1])
    context = joined(channels[-1], nn.Identity(), width)
    return Head(context, classifier(width, classes, _or(dropout, 0.1)))


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
