"""Heads: the feature maps of a backbone in, class scores out.

A head is called with the list of feature maps and gives a :class:`HeadOutput` at their size. Side
scores are computed in training only.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from scenewise.attention import ChannelAttention, PositionAttention
from scenewise.attention.channel import Similarity


class HeadOutput(NamedTuple):
    """Scores (B, K, h, w), named side scores, and named scalar penalties."""

    logits: Tensor
    auxiliary: dict[str, Tensor]
    penalties: dict[str, Tensor]


def head_width(inputs: int) -> int:
    """A quarter of the backbone's channels, as in DANet (2048 -> 512), but at least 64.

    >>> head_width(2048), head_width(64)
    (512, 64)
    """
    return max(64, inputs // 4)


def conv_bn_relu(inputs: int, outputs: int, kernel: int = 3, dilation: int = 1) -> nn.Sequential:
    """Convolution without bias that keeps the size, batch norm, ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def classifier(width: int, classes: int, dropout: float) -> nn.Sequential:
    """Dropout of whole maps, then a 1x1 convolution to the class scores."""
    return nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(width, classes, 1))


class FCNHead(nn.Module):
    """Dilated FCN (Long et al., CVPR 2015; the baseline of the DANet paper).

    3x3 convolution to a quarter of the channels, batch norm, ReLU, dropout of single values, 1x1
    convolution to the classes. Also the side head on another stage.

    Args:
        channels: of the backbone's maps.
        classes: K.
        stage: which map is read, -1 the last, -2 the third stage of a ResNet.
        width: channels between the convolutions; default :func:`head_width`.
        dropout: probability.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        *,
        stage: int = -1,
        width: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        width = width or head_width(channels[stage])
        self.stage = stage
        self.reduce = conv_bn_relu(channels[stage], width)
        self.classify = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(width, classes, 1))

    def forward(self, maps: Sequence[Tensor]) -> HeadOutput:
        """Maps -> scores at the size of the map that is read."""
        return HeadOutput(self.classify(self.reduce(maps[self.stage])), {}, {})


class AttentionHead(nn.Module):
    """One block between two 3x3 convolutions, then the classifier.

    With position or channel attention as the block this is one branch of DANet alone, the
    paper's ablation.

    Args:
        channels: of the backbone's maps; the last is read.
        classes: K.
        block: (B, width, h, w) -> the same shape.
        width: channels at the block.
        dropout: probability that a whole map is dropped before the classifier.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        *,
        block: nn.Module,
        width: int,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.reduce = conv_bn_relu(channels[-1], width)
        self.block = block
        self.refine = conv_bn_relu(width, width)
        self.classify = classifier(width, classes, dropout)

    def forward(self, maps: Sequence[Tensor]) -> HeadOutput:
        """Maps -> scores at the size of the last map."""
        return HeadOutput(self.classify(self.refine(self.block(self.reduce(maps[-1])))), {}, {})


class DANetHead(nn.Module):
    """Dual attention (Fu et al., CVPR 2019): a position and a channel branch, summed.

    Each branch is a 3x3 convolution to ``width`` channels, its attention, and another 3x3
    convolution. The sum gives the fused scores; in training each branch also gives its own, named
    ``position`` and ``channel``, each with weight 1 in the loss, as in the authors' script.

    Args:
        channels: of the backbone's maps; the last is read.
        classes: K.
        width: channels of the branches; default a quarter of the map's.
        reduction: ``width`` divided by the channels of query and key.
        similarity: of the channel attention; published weights need ``"reversed"``.
        dropout: probability that a whole map is dropped before a classifier.
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
        self.position = nn.Sequential(
            conv_bn_relu(channels[-1], width),
            PositionAttention(width, reduction),
            conv_bn_relu(width, width),
        )
        self.channel = nn.Sequential(
            conv_bn_relu(channels[-1], width),
            ChannelAttention(width, similarity),
            conv_bn_relu(width, width),
        )
        self.classify = classifier(width, classes, dropout)
        self.classify_position = classifier(width, classes, dropout)
        self.classify_channel = classifier(width, classes, dropout)

    def forward(self, maps: Sequence[Tensor]) -> HeadOutput:
        """Maps -> scores at the size of the last map."""
        position, channel = self.position(maps[-1]), self.channel(maps[-1])
        side = {}
        if self.training:
            side["position"] = self.classify_position(position)
            side["channel"] = self.classify_channel(channel)
        return HeadOutput(self.classify(position + channel), side, {})
