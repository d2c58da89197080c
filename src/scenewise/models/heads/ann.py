"""ANN: asymmetric non-local attention on two stages."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from scenewise.attention import AsymmetricFusion, AsymmetricPyramid
from scenewise.attention.layers import conv_norm
from scenewise.models.heads.base import HeadOutput
from scenewise.models.layers import head_width


class ANNHead(nn.Module):
    """Asymmetric non-local network (Zhu et al., ICCV 2019).

    The last feature map attends to averages of the one before; a 3x3 convolution reduces it to
    ``width`` channels, which attend to averages of themselves. mmsegmentation has its dropout
    between the two blocks, the authors inside both.

    Args:
        channels: of the backbone's feature maps; the last two are used.
        classes: K.
        variant: ``"official"`` or ``"mmseg"``.
        width: default a quarter of the last channels, at least 64.
        sizes: numbers of bins of the averages along each axis.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        *,
        variant: str = "official",
        width: int | None = None,
        sizes: Sequence[int] = (1, 3, 6, 8),
    ) -> None:
        super().__init__()
        width, bins = width or head_width(channels[-1]), tuple(sizes)
        mmseg = variant == "mmseg"
        code: Literal["official", "mmseg"] = "mmseg" if mmseg else "official"
        self.fuse = AsymmetricFusion(channels[-1], channels[-2], sizes=bins, variant=code)
        self.dropout = nn.Dropout2d(0.1) if mmseg else nn.Identity()
        self.reduce = conv_norm(channels[-1], width, 3, bias=not mmseg)
        self.block = AsymmetricPyramid(width, sizes=bins, variant=code)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        """Feature maps -> logits at the size of the last one."""
        fused = self.dropout(self.fuse(features[-1], features[-2]))  # (B, C, h, w)
        return HeadOutput(self.classify(self.block(self.reduce(fused))), {}, {})
