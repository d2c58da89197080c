"""Layers that heads share: widths, the classifier, named sequences, input concatenation."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from scenewise.attention.layers import conv_norm


def head_width(inputs: int) -> int:
    """A quarter of the backbone's channels, as in DANet (2048 -> 512), but at least 64.

    >>> head_width(2048), head_width(64)
    (512, 64)
    """
    return max(64, inputs // 4)  # attention reduces it by 8 again


def classifier(
    width: int, classes: int, dropout: float, *, dropout2d: bool = True
) -> nn.Sequential:
    """Dropout of whole channels, or of single elements, then a 1x1 convolution to the logits."""
    layer = nn.Dropout2d(dropout) if dropout2d else nn.Dropout(dropout)
    return nn.Sequential(layer, nn.Conv2d(width, classes, 1))


def named_sequential(**layers: nn.Module) -> nn.Sequential:
    """``nn.Sequential`` with named layers.

    >>> named_sequential(first=nn.ReLU(), second=nn.Sigmoid())
    Sequential(
      (first): ReLU()
      (second): Sigmoid()
    )
    """
    return nn.Sequential(OrderedDict(layers))


def separable_conv(
    inputs: int, outputs: int, *, dilation: int = 1, slope: float = 0.0
) -> nn.Sequential:
    """A 3x3 convolution of each channel, then a 1x1 convolution; batch norm and ReLU after each.

    >>> sum(p.numel() for p in separable_conv(16, 8).parameters())  # 16 * 9 + 16 * 8 + norms
    320
    """
    depthwise = conv_norm(inputs, inputs, 3, dilation=dilation, groups=inputs, slope=slope)
    return nn.Sequential(depthwise, conv_norm(inputs, outputs, slope=slope))


class ConcatInput(nn.Module):
    """The input concatenated with ``branch(input)``: (B, C, H, W) -> (B, C + D, H, W).

    >>> ConcatInput(nn.Conv2d(4, 3, 1))(torch.randn(2, 4, 5, 7)).shape
    torch.Size([2, 7, 5, 7])
    """

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """The input comes first."""
        return torch.cat([x, self.branch(x)], dim=1)
