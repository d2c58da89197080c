"""DANet: position and channel attention in two branches."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from scenewise.attention import ChannelAttention, PositionAttention
from scenewise.attention.channel import Similarity
from scenewise.attention.layers import conv_norm
from scenewise.models.heads.base import HeadOutput
from scenewise.models.layers import classifier, head_width


def _position_branch(inputs: int, width: int, reduction: int = 8) -> nn.Sequential:
    """Position attention between two 3x3 convolutions."""
    attention = PositionAttention(width, reduction)
    return nn.Sequential(conv_norm(inputs, width, 3), attention, conv_norm(width, width, 3))


def _channel_branch(inputs: int, width: int, similarity: Similarity = "reversed") -> nn.Sequential:
    """Channel attention between two 3x3 convolutions."""
    attention = ChannelAttention(width, similarity)
    return nn.Sequential(conv_norm(inputs, width, 3), attention, conv_norm(width, width, 3))


class DualAttention(nn.Module):
    """DANet's two branches, summed: a context module for :class:`ChainHead`.

    Args:
        inputs: channels of the input.
        width: channels of the branches and of the output.
        reduction: ``width`` divided by the channels of query and key.
        similarity: of the channel attention.

    >>> import torch
    >>> DualAttention(96, 64)(torch.randn(2, 96, 5, 7)).shape
    torch.Size([2, 64, 5, 7])
    """

    def __init__(
        self, inputs: int, width: int, reduction: int = 8, similarity: Similarity = "reversed"
    ) -> None:
        super().__init__()
        self.position = _position_branch(inputs, width, reduction)
        self.channel = _channel_branch(inputs, width, similarity)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, width, H, W)."""
        y: Tensor = self.position(x) + self.channel(x)
        return y


class DANetHead(nn.Module):
    """Dual attention (Fu et al., CVPR 2019): a position and a channel branch, summed.

    Each branch is a 3x3 convolution to ``width`` channels, its attention, and another 3x3
    convolution. The logits come from the sum; in training each branch also has auxiliary logits,
    ``position`` and ``channel``, each with weight 1 in the loss, as in the authors' script.

    Args:
        channels: of the backbone's feature maps; the last is used.
        classes: K.
        width: channels of the branches; default a quarter of the last channels, at least 64.
        reduction: ``width`` divided by the channels of query and key.
        similarity: of the channel attention; published weights need ``"reversed"``.
        dropout: probability that a channel is dropped before a classifier.
    """

    loss_weights: ClassVar[dict[str, float]] = {"position": 1.0, "channel": 1.0}

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        *,
        width: int | None = None,
        reduction: int = 8,
        similarity: Similarity = "reversed",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        width = width or head_width(channels[-1])
        self.position = _position_branch(channels[-1], width, reduction)
        self.channel = _channel_branch(channels[-1], width, similarity)
        self.classify = classifier(width, classes, dropout)
        self.classify_position = classifier(width, classes, dropout)
        self.classify_channel = classifier(width, classes, dropout)

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        """Feature maps -> logits at the size of the last one."""
        x = features[-1]  # (B, C, h, w)
        position, channel = self.position(x), self.channel(x)  # (B, width, h, w) each
        auxiliary = {}
        if self.training:
            auxiliary["position"] = self.classify_position(position)  # (B, K, h, w)
            auxiliary["channel"] = self.classify_channel(channel)
        return HeadOutput(self.classify(position + channel), auxiliary, {})
