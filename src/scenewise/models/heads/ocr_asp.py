"""ASP-OCR: object-contextual representations as one branch of an atrous spatial pyramid."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from scenewise.attention import ObjectContextual
from scenewise.attention.layers import conv_norm
from scenewise.models.heads.base import HeadOutput
from scenewise.models.heads.fcn import FCNHead
from scenewise.models.heads.ocr import coarse_logits
from scenewise.models.layers import classifier, head_width

_SLOPE = 0.01  # of the leaky ReLU in openseg's published weights
_RATES = (12, 24, 36)


class ASPOCRHead(nn.Module):
    """ASP-OCR of openseg (Yuan et al., ECCV 2020).

    Five branches of half the width on the last feature map: attention to the regions of the
    classes after a 3x3 convolution; a 1x1 convolution; three 3x3 convolutions of dilation 12, 24
    and 36. A last 1x1 convolution mixes them. The coarse logits of the third stage give the
    regions, in evaluation too; in training they are the auxiliary logits ``regions``, with weight
    0.4.

    Args:
        channels: of the backbone's feature maps; the last two are used.
        classes: K.
        width: default a quarter of the last channels, at least 64; each branch has half of it.
        align_corners: of the resize of the coarse logits, where the two stages differ in size.
    """

    loss_weights: ClassVar[dict[str, float]] = {"regions": 0.4}

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        *,
        width: int | None = None,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        inputs, half = channels[-1], (width or head_width(channels[-1])) // 2
        self.align_corners = align_corners
        self.regions = FCNHead(
            channels,
            classes,
            stage=-2,
            width=max(64, channels[-2] // 2),
            dropout=0.1,
            dropout2d=True,
            bias=True,
            slope=_SLOPE,
        )
        self.reduce = conv_norm(inputs, half, 3, bias=True, slope=_SLOPE)
        self.block = ObjectContextual(half, variant="openseg", mix=False)
        self.branches = nn.ModuleList(
            [
                conv_norm(inputs, half, bias=True, slope=_SLOPE),
                *(
                    conv_norm(inputs, half, 3, dilation=rate, bias=True, slope=_SLOPE)
                    for rate in _RATES
                ),
            ]
        )
        self.mix = conv_norm((2 + len(_RATES)) * half, half, bias=True, slope=_SLOPE)
        self.classify = classifier(half, classes, 0.1)

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        """Feature maps -> logits at the size of the last one."""
        deep = features[-1]
        regions = coarse_logits(self.regions, features, self.align_corners)  # (B, K, h, w)
        context = self.block(self.reduce(deep), regions)  # (B, half, h, w)
        parts = [context, *(branch(deep) for branch in self.branches)]
        logits = self.classify(self.mix(torch.cat(parts, dim=1)))
        return HeadOutput(logits, {"regions": regions} if self.training else {}, {})
