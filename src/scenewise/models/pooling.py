"""Context without attention: PSPNet's pyramid pooling and DeepLabV3's ASPP."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenewise.attention.layers import conv_norm
from scenewise.models.layers import head_width, separable_conv


class PyramidPooling(nn.Module):
    r"""PSPNet's pyramid pooling module (Zhao et al., CVPR 2017).

    .. math:: y = [x, \, u(f_1(p_1(x))), \, \dots, \, u(f_n(p_n(x)))]

    p_s averages over s x s bins, f_s is a 1x1 convolution with batch norm and ReLU, u upsamples to
    the size of x. Bin i of s along a side of H pixels runs from floor(i H / s) to
    ceil((i + 1) H / s), so neighbours overlap where s does not divide H.

    Args:
        in_channels: C.
        width: channels of each bin size; default a quarter of C.
        bins: numbers of bins along a side.
        align_corners: of the bilinear upsampling; True in the authors' code.

    Attributes:
        out_channels: C + width * number of bin sizes.

    >>> context = PyramidPooling(64, width=16)
    >>> context(torch.randn(2, 64, 7, 11)).shape, context.out_channels
    (torch.Size([2, 128, 7, 11]), 128)
    """

    def __init__(
        self,
        in_channels: int,
        width: int | None = None,
        bins: Sequence[int] = (1, 2, 3, 6),
        *,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        width = width or head_width(in_channels)
        self.align_corners = align_corners
        self.out_channels = in_channels + width * len(bins)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), *conv_norm(in_channels, width))
            for size in bins
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H, W), x first."""
        size, corners = x.shape[2:], self.align_corners
        pooled = (branch(x) for branch in self.branches)  # each (B, width, s, s)
        upsampled = (F.interpolate(p, size, mode="bilinear", align_corners=corners) for p in pooled)
        return torch.cat([x, *upsampled], dim=1)  # (B, C + n * width, H, W)


class ASPP(nn.Module):
    r"""DeepLabV3's atrous spatial pyramid pooling (Chen et al., 2017, arXiv 1706.05587).

    .. math:: y = g([f_1(x), f_{r_1}(x), f_{r_2}(x), f_{r_3}(x), m(x)])

    f_1 is a 1x1 convolution, f_r a 3x3 convolution with dilation r, m a 1x1 convolution of the mean
    over all pixels, g a convolution back to ``width`` channels; each with batch norm and ReLU.

    Args:
        in_channels: C.
        width: channels of each branch.
        rates: dilations. The paper has 6, 12, 18 at output stride 16 and twice that at 8.
        out_channels: of the result; default ``width``.
        kernel: of g: 1, or 3 in mmsegmentation.
        pool_first: m first, then the others, as in mmsegmentation and CCNet's code; last in
            torchvision. It matters for published weights only.
        slope: of the leaky ReLUs, see :func:`scenewise.attention.layers.conv_norm`.
        separable: f_r is a depthwise and a 1x1 convolution, as in DeepLabV3+.

    >>> ASPP(64, width=16)(torch.randn(2, 64, 7, 11)).shape
    torch.Size([2, 16, 7, 11])
    """

    def __init__(
        self,
        in_channels: int,
        width: int = 256,
        rates: Sequence[int] = (12, 24, 36),
        *,
        out_channels: int | None = None,
        kernel: int = 1,
        pool_first: bool = False,
        slope: float = 0.0,
        separable: bool = False,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels or width
        dilated = separable_conv if separable else partial(conv_norm, kernel=3)
        self.pool_first = pool_first
        self.branches = nn.ModuleList([conv_norm(in_channels, width, slope=slope)])
        self.branches.extend(
            dilated(in_channels, width, dilation=rate, slope=slope) for rate in rates
        )
        self.pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), *conv_norm(in_channels, width, slope=slope)
        )
        concatenated = width * (len(rates) + 2)  # 1x1, each rate, the mean
        self.project = conv_norm(concatenated, self.out_channels, kernel, slope=slope)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H, W)."""
        parts = [branch(x) for branch in self.branches]  # each (B, width, H, W)
        mean = self.pool(x).expand(-1, -1, *x.shape[2:])  # (B, width, 1, 1) -> (B, width, H, W)
        parts = [mean, *parts] if self.pool_first else [*parts, mean]
        y: Tensor = self.project(torch.cat(parts, dim=1))
        return y
