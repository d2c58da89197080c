"""UPerNet: pyramid pooling on the last feature map, and a feature pyramid over all of them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenewise.attention.layers import conv_norm
from scenewise.models.heads.base import HeadOutput
from scenewise.models.layers import classifier, head_width
from scenewise.models.pooling import PyramidPooling


class UPerNetHead(nn.Module):
    """Unified perceptual parsing (Xiao et al., ECCV 2018), as in mmsegmentation.

    Pyramid pooling gives context to the last feature map. From there upwards each feature map, by a
    1x1 convolution at ``width`` channels, gets the one below added; each passes a 3x3 convolution,
    all are upsampled to the first one's size, concatenated, and fused by a 3x3 convolution.

    Args:
        channels: of the backbone's feature maps; all are used.
        classes: K.
        width: channels of the pyramid; default a quarter of the last channels, at least 64.
        bins: of the pyramid pooling.
        dropout: probability that a channel is dropped before the classifier.
        align_corners: of every bilinear upsampling.

    >>> head = UPerNetHead([16, 32, 64], 5)
    >>> sizes = ((16, 12, 20), (32, 6, 10), (64, 3, 5))
    >>> head([torch.randn(2, *size) for size in sizes]).logits.shape
    torch.Size([2, 5, 12, 20])
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        *,
        width: int | None = None,
        bins: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        width = width or head_width(channels[-1])
        self.align_corners = align_corners
        self.pool = PyramidPooling(channels[-1], width, bins, align_corners=align_corners)
        self.bottleneck = conv_norm(self.pool.out_channels, width, 3)
        self.lateral = nn.ModuleList(conv_norm(count, width) for count in channels[:-1])
        self.smooth = nn.ModuleList(conv_norm(width, width, 3) for _ in channels[:-1])
        self.fuse = conv_norm(len(channels) * width, width, 3)
        self.classify = classifier(width, classes, dropout)

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        """Feature maps -> logits at the size of the first one."""
        levels = [self.bottleneck(self.pool(features[-1]))]  # from the last to the first
        for lateral, x in zip(reversed(self.lateral), reversed(features[:-1]), strict=True):
            levels.append(lateral(x) + self._resize(levels[-1], x))  # (B, width, h_i, w_i)
        smoothed = [f(x) for f, x in zip(self.smooth, reversed(levels[1:]), strict=True)]
        smoothed.append(levels[0])  # pyramid pooling is smooth already
        joined = torch.cat([self._resize(x, features[0]) for x in smoothed], dim=1)
        return HeadOutput(self.classify(self.fuse(joined)), {}, {})

    def _resize(self, x: Tensor, like: Tensor) -> Tensor:
        if x.shape[2:] == like.shape[2:]:
            return x
        corners = self.align_corners
        return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=corners)
