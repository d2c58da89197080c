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

    Coarse scores of the third stage tell where each class may lie; every pixel of the last map then
    gathers from these regions. The coarse scores are needed in evaluation too. In training they
    are a side score named ``regions``, with weight 0.4.

    - ``"official"``, openseg's: coarse scores through 512 channels, bias, leaky ReLU 0.01.
    - ``"mmseg"``: through 256 channels, ReLU, dropout before the classifier.

    Args:
        channels: of the backbone's maps; the last two are read.
        classes: K.
        variant: see above.
        width: of the last map's features; default a quarter of its channels, at least 64.
        align_corners: of the resize of the coarse scores, where the two maps differ in size.
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
        ours = variant != "mmseg"
        slope = 0.01 if ours else 0.0
        self.regions = FCNHead(
            channels,
            classes,
            stage=-2,
            width=max(64, channels[-2] // 2) if ours else None,
            dropout=0.05 if ours else 0.1,
            drop_maps=True,
            bias=ours,
            slope=slope,
        )
        self.reduce = conv_norm(channels[-1], width, 3, bias=ours, slope=slope)
        self.block = ObjectContextual(width, variant="openseg" if ours else "mmseg")
        self.classify = classifier(width, classes, 0.0 if ours else 0.1)

    def forward(self, maps: Sequence[Tensor]) -> HeadOutput:
        """Maps -> scores at the size of the last map."""
        regions = self.regions(maps).logits
        x = self.reduce(maps[-1])
        if regions.shape[2:] != x.shape[2:]:
            size, corners = x.shape[2:], self.align_corners
            regions = F.interpolate(regions, size, mode="bilinear", align_corners=corners)
        logits = self.classify(self.block(x, regions))
        return HeadOutput(logits, {"regions": regions} if self.training else {}, {})
