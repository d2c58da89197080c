"""DPT: four layers of a plain vision transformer, fused from coarse to fine."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from scenewise.attention.layers import conv_norm
from scenewise.models.heads.base import HeadOutput
from scenewise.models.layers import classifier


class DPTHead(nn.Module):
    """Dense prediction transformer (Ranftl et al., ICCV 2021), its head for segmentation.

    All layers of a plain transformer have one size. Each passes a 1x1 convolution, is brought to 4,
    2, 1 or 1/2 times that size by a convolution, and passes a 3x3 convolution to ``width``
    channels. From the coarsest to the finest, the sum so far and the next layer pass residual
    convolutions and are upsampled by 2.

    Of the published choices for the class token, this one ignores it, as DINOv2's heads do.

    Args:
        channels: of four feature maps of one size.
        classes: K.
        width: channels of the fusion; default two thirds of the last channels, at least 64: 256 for
            the 384 of a small transformer.
        dropout: probability that a channel is dropped before the classifier.

    Raises:
        ValueError: there are not four feature maps.

    >>> import torch
    >>> head = DPTHead([32] * 4, 5)
    >>> head([torch.randn(2, 32, 6, 10) for _ in range(4)]).logits.shape
    torch.Size([2, 5, 48, 80])
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
        if len(channels) != 4:
            raise ValueError(f"dpt fuses 4 feature maps, got {len(channels)}")
        width = width or max(64, 2 * channels[-1] // 3)
        inner = [max(32, width * 3 // 8 * 2**i) for i in range(4)]  # 96, 192, 384, 768 for 256
        self.resize = nn.ModuleList(map(_resize, channels, inner, (4.0, 2.0, 1.0, 0.5)))
        self.reduce = nn.ModuleList(nn.Conv2d(n, width, 3, padding=1, bias=False) for n in inner)
        self.fuse = nn.ModuleList(_Fusion(width, coarsest=i == 3) for i in range(4))
        self.refine = conv_norm(width, width, 3)
        self.classify = classifier(width, classes, dropout)

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        """Four feature maps (B, C, h, w) -> logits (B, K, 8 h, 8 w)."""
        steps = zip(self.resize, self.reduce, features, strict=True)
        layers = [reduce(resize(x)) for resize, reduce, x in steps]  # 4, 2, 1, 1/2 times h
        y: Tensor | None = None
        for fuse, x in zip(reversed(self.fuse), reversed(layers), strict=True):
            y = fuse(x, y)
        return HeadOutput(self.classify(self.refine(y)), {}, {})


class _Residual(nn.Module):
    """x + norm(conv(relu(norm(conv(relu(x)))))), 3x3 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = conv_norm(width, width, 3)
        self.second = conv_norm(width, width, 3, slope=None)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.second(self.first(x.relu()))
        return y


class _Fusion(nn.Module):
    """The layer's residual, added to the sum so far; another residual; upsampled by 2; 1x1."""

    def __init__(self, width: int, *, coarsest: bool) -> None:
        super().__init__()
        self.layer = None if coarsest else _Residual(width)
        self.total = _Residual(width)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, total: Tensor | None) -> Tensor:
        if total is None or self.layer is None:
            total = x  # the coarsest layer has nothing to be added to
        else:
            # an odd size is halved upwards, so twice of it is one too many
            total = total[:, :, : x.shape[2], : x.shape[3]] + self.layer(x)
        total = self.total(total)
        y: Tensor = self.out(
            F.interpolate(total, scale_factor=2, mode="bilinear", align_corners=True)
        )
        return y


def _resize(inputs: int, outputs: int, factor: float) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 1)]
    if factor > 1:
        layers.append(nn.ConvTranspose2d(outputs, outputs, int(factor), int(factor)))
    elif factor < 1:
        layers.append(nn.Conv2d(outputs, outputs, 3, stride=int(1 / factor), padding=1))
    return nn.Sequential(*layers)
