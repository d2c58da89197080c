"""DRANet: compact position and channel attention, refined by the first stage."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scenewise.attention import CompactChannel, CompactPosition, CrossLevelGate
from scenewise.attention.layers import conv_norm
from scenewise.models.heads.base import HeadOutput
from scenewise.models.heads.single_block import branch
from scenewise.models.layers import classifier, head_width


class DRANetHead(nn.Module):
    """Dual relation-aware attention (Fu et al., TNNLS 2020), DANet's successor.

    Both branches as in DANet but with few centres instead of all pixels and channels; concatenated,
    they pass a 3x3 convolution to half the width. A gate then adds detail of the first stage, so
    logits have its size, stride 4 in a ResNet.

    Args:
        channels: of the backbone's feature maps; the last and the first are used.
        classes: K.
        width: of the branches; default a quarter of the last channels, at least 64.
        dropout: probability that a channel is dropped before the classifier.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        *,
        width: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        width = width or head_width(channels[-1])
        self.position = branch(channels[-1], CompactPosition(width), width)
        self.channel = branch(channels[-1], CompactChannel(width), width)
        self.fuse = conv_norm(2 * width, width // 2, 3)
        self.gate = CrossLevelGate(width // 2, channels[0])
        self.classify = classifier(width // 2, classes, dropout)

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        """Feature maps -> logits at the size of the first one."""
        both = torch.cat([self.position(features[-1]), self.channel(features[-1])], dim=1)
        y = self.gate(self.fuse(both), features[0])  # (B, width / 2, H / 4, W / 4) in a ResNet
        return HeadOutput(self.classify(y), {}, {})
