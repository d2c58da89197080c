"""The few parts that all heads are made of."""

from collections import OrderedDict

import torch
from torch import Tensor, nn


def head_width(inputs: int) -> int:
    """A quarter of the backbone's channels, as in DANet (2048 -> 512), but at least 64.

    >>> head_width(2048), head_width(64)
    (512, 64)
    """
    return max(64, inputs // 4)


def classifier(width: int, classes: int, dropout: float, *, maps: bool = True) -> nn.Sequential:
    """Dropout of whole maps, or of single numbers, then a 1x1 convolution to the class scores."""
    layer = nn.Dropout2d(dropout) if maps else nn.Dropout(dropout)
    return nn.Sequential(layer, nn.Conv2d(width, classes, 1))


def stack(**layers: nn.Module) -> nn.Sequential:
    """Named layers, one behind the other.

    >>> stack(first=nn.ReLU(), second=nn.Sigmoid())
    Sequential(
      (first): ReLU()
      (second): Sigmoid()
    )
    """
    return nn.Sequential(OrderedDict(layers))


class Beside(nn.Module):
    """The input and what ``branch`` makes of it, side by side: (B, C, H, W) -> (B, C + D, H, W).

    >>> Beside(nn.Conv2d(4, 3, 1))(torch.randn(2, 4, 5, 7)).shape
    torch.Size([2, 7, 5, 7])
    """

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """The input first."""
        return torch.cat([x, self.branch(x)], dim=1)
