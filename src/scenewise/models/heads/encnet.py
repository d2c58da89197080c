"""EncNet: context encoding, with the presence of each class as an auxiliary task."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from scenewise.attention import ContextEncoding
from scenewise.attention.layers import conv_norm
from scenewise.models.heads.base import HeadOutput
from scenewise.models.layers import classifier, head_width


class EncNetHead(nn.Module):
    """Context encoding (Zhang et al., CVPR 2018).

    A 3x3 convolution, the channel gates, the classifier. In training the encoding also predicts
    which classes the image shows: the auxiliary logits ``presence`` of shape (B, K), trained with
    binary cross-entropy (the paper's semantic encoding loss) at weight 0.2. The authors' option to
    concatenate two earlier stages is not implemented.

    Args:
        channels: of the backbone's feature maps; the last is used.
        classes: K.
        width: default a quarter of the last channels, at least 64.
        codewords: number of them.
        dropout: probability that a channel is dropped before the classifier.
    """

    loss_weights: ClassVar[dict[str, float]] = {"presence": 0.2}

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        *,
        width: int | None = None,
        codewords: int = 32,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        width = width or head_width(channels[-1])
        self.reduce = conv_norm(channels[-1], width, 3)
        self.block = ContextEncoding(width, codewords, classes)
        self.classify = classifier(width, classes, dropout)

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        """Feature maps -> logits at the size of the last one."""
        x = self.reduce(features[-1])
        if not self.training:
            return HeadOutput(self.classify(self.block(x)), {}, {})
        y, presence = self.block.with_presence(x)  # (B, width, h, w), (B, K)
        return HeadOutput(self.classify(y), {"presence": presence}, {})
