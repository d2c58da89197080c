"""Interaction-aware attention as a segmentation head."""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenewise.attention import InteractionAware
from scenewise.attention.layers import conv_norm
from scenewise.models.heads.base import HeadOutput
from scenewise.models.layers import classifier, head_width


class InteractionHead(nn.Module):
    """Interaction-aware attention (Du et al., ECCV 2018), concatenated with its input.

    The paper classifies videos; this head is designed here. A 3x3 convolution reduces to ``width``
    channels. The attention weights belong to fixed positions, so its input is averaged to ``size``;
    its output is upsampled, concatenated with the input, and passes a second 3x3 convolution. In
    training the losses of the attention are penalties named ``pca`` and ``diversity``; the paper
    does not give their weights, here both are 0.1.

    Args:
        channels: of the backbone's feature maps; the last ``layers`` of them are used.
        classes: K.
        layers: of the pyramid: 1, or 2 to fuse the third stage as well, and so on.
        size: height and width of the attention's input.
        width: default a quarter of the last channels, at least 64.
        dropout: probability that a channel is dropped before the classifier.
        align_corners: of the upsampling.
    """

    loss_weights: ClassVar[dict[str, float]] = {"pca": 0.1, "diversity": 0.1}  # chosen here

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        *,
        layers: int = 1,
        size: Sequence[int] = (16, 16),
        width: int | None = None,
        dropout: float = 0.1,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        if not 1 <= layers <= len(channels):
            raise ValueError(f"layers must be 1 to {len(channels)}, not {layers}")
        rows, columns = size
        width = width or head_width(channels[-1])
        self.layers = layers
        self.align_corners = align_corners
        self.reduce = conv_norm(channels[-1], width, 3)
        earlier = list(channels[len(channels) - layers : -1])
        self.attention = InteractionAware([*earlier, width], (rows, columns))
        self.bottleneck = conv_norm(2 * width, width, 3)
        self.classify = classifier(width, classes, dropout)

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        """Feature maps -> logits at the size of the last one."""
        x = self.reduce(features[-1])
        last = F.adaptive_avg_pool2d(x, self.attention.size)  # (B, width, *size)
        pyramid = [*features[len(features) - self.layers : -1], last]
        penalties: dict[str, Tensor] = {}
        if self.training:
            assembled, penalties = self.attention.with_penalties(pyramid)
        else:
            assembled = self.attention(pyramid)
        context = F.interpolate(
            assembled, x.shape[2:], mode="bilinear", align_corners=self.align_corners
        )
        y = self.bottleneck(torch.cat([x, context], dim=1))  # (B, width, h, w)
        return HeadOutput(self.classify(y), {}, penalties)
