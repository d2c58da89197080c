"""DeepLabV3+'s decoder around any head: context is fused with the feature map at stride 4."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenewise.attention.layers import conv_norm
from scenewise.models.heads.base import HeadOutput
from scenewise.models.layers import separable_conv


class LowLevelHead(nn.Module):
    """Fuse a head's context with an early feature map before its classifier.

    As in DeepLabV3+ (Chen et al., ECCV 2018): the early feature map passes a 1x1 convolution to few
    channels, the context is upsampled to its size, both are concatenated and pass two separable
    3x3 convolutions. The classifier is the head's own; its auxiliary outputs stay as they are.

    Args:
        context: a head whose ``classify`` takes ``width`` channels; that classifier moves here.
        inputs: channels of the early feature map.
        reduced: channels of the early feature map in the fusion.
        stage: index of the early feature map.
        align_corners: of the bilinear upsampling of the context.

    >>> from scenewise.models.heads.fcn import FCNHead
    >>> head = LowLevelHead(FCNHead([24, 96], 5), 24, 12)
    >>> head([torch.randn(2, 24, 12, 20), torch.randn(2, 96, 3, 5)]).logits.shape
    torch.Size([2, 5, 12, 20])
    """

    def __init__(
        self,
        context: nn.Module,
        inputs: int,
        reduced: int = 48,
        *,
        stage: int = 0,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        classify: Any = context.classify
        last = [m for m in classify.modules() if isinstance(m, nn.Conv2d)][-1]
        width = last.in_channels
        context.classify = nn.Identity()
        self.context = context
        self.reduce = conv_norm(inputs, reduced)
        self.fuse = nn.Sequential(
            separable_conv(width + reduced, width), separable_conv(width, width)
        )
        self.classify = classify
        self.stage = stage
        self.align_corners = align_corners
        self.loss_weights: dict[str, float] = dict(getattr(context, "loss_weights", {}))

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        """Feature maps -> logits at the size of the early one."""
        out: HeadOutput = self.context(features)
        detail = self.reduce(features[self.stage])  # (B, reduced, H / 4, W / 4)
        context = F.interpolate(
            out.logits, detail.shape[2:], mode="bilinear", align_corners=self.align_corners
        )  # (B, width, H / 4, W / 4)
        y = self.fuse(torch.cat([context, detail], dim=1))  # (B, width, H / 4, W / 4)
        return out._replace(logits=self.classify(y))
