"""OCR: object-contextual representations."""

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from scenewise.attention import ObjectContextual
from scenewise.attention.layers import conv_norm
from scenewise.models.heads.base import HeadOutput
from scenewise.models.heads.fcn import FCNHead
from scenewise.models.layers import classifier, head_width


class OCRHead(nn.Module):
    """Object-contextual representations (Yuan et al., ECCV 2020).

    Coarse logits of the third stage weight the pixels into one region for each class; every pixel
    of the last feature map then attends to these regions. The coarse logits are needed in
    evaluation too. In training they are the auxiliary logits ``regions``, with weight 0.4.

    - ``"official"``, openseg's: coarse logits through 512 channels, bias, leaky ReLU 0.01.
    - ``"mmseg"``: through 256 channels, ReLU, dropout before the classifier.

    Args:
        channels: of the backbone's feature maps; the last two are used.
        classes: K.
        variant: see above.
        width: of the reduced features; default a quarter of the last channels, at least 64.
        align_corners: of the resize of the coarse logits, where the two stages differ in size.
    """

    loss_weights: ClassVar[dict[str, float]] = {"regions": 0.4}

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        *,
        variant: str = "official",
        width: int | None = None,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        width = width or head_width(channels[-1])
        self.align_corners = align_corners
        official = variant != "mmseg"
        slope = 0.01 if official else 0.0
        self.regions = FCNHead(
            channels,
            classes,
            stage=-2,
            width=max(64, channels[-2] // 2) if official else None,
            dropout=0.05 if official else 0.1,
            dropout2d=True,
            bias=official,
            slope=slope,
        )
        self.reduce = conv_norm(channels[-1], width, 3, bias=official, slope=slope)
        self.block = ObjectContextual(width, variant="openseg" if official else "mmseg")
        self.classify = classifier(width, classes, 0.0 if official else 0.1)

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        """Feature maps -> logits at the size of the last one."""
        x = self.reduce(features[-1])  # (B, width, h, w)
        regions = coarse_logits(self.regions, features, self.align_corners)  # (B, K, h, w)
        logits = self.classify(self.block(x, regions))
        return HeadOutput(logits, {"regions": regions} if self.training else {}, {})


def coarse_logits(head: nn.Module, features: Sequence[Tensor], align_corners: bool) -> Tensor:
    """Logits of ``head`` at the size of the last feature map: (B, K, h, w)."""
    logits: Tensor = head(features).logits
    size = features[-1].shape[2:]
    if logits.shape[2:] == size:
        return logits
    return F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
