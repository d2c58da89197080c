"""Compact dual attention and the cross-level gate of DRANet.

Fu et al., "Scene Segmentation With Dual Relation-Aware Attention Network", TNNLS 2020.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from scenewise.attention.asymmetric import pixel_shares
from scenewise.attention.kernels.precision import no_autocast, softmax, upcast
from scenewise.attention.layers import check_batch, conv_norm, reduced
from scenewise.attention.position import (
    attention_map,
    feature_map,
    pixel,
    pixels,
    position_attention,
)


class CompactPosition(nn.Module):
    r"""Each pixel attends to 50 centres: averages of a pyramid of bins.

    .. math:: y = \gamma \operatorname{softmax}(Q(x) K(c)^\top) V(c) + x

    The centres c are means in 1, 2 x 2, 3 x 3 and 6 x 6 bins, each size with its own 1x1
    convolution, norm and ReLU. Q is a 1x1 convolution, K and V are linear layers, all with bias;
    there is no 1/sqrt(d). The scalar gamma starts at 0, so the block starts as the identity.

    Args:
        channels: C, channels of the input and the output.
        sizes: numbers of bins along each axis.
        reduction: C divided by the channels of query and key.

    >>> block = CompactPosition(16)
    >>> x = torch.randn(2, 16, 7, 11)
    >>> torch.equal(block(x), x), block.centre_weights(x).shape
    (True, torch.Size([2, 77, 50]))
    """

    def __init__(
        self, channels: int, sizes: tuple[int, ...] = (1, 2, 3, 6), reduction: int = 4
    ) -> None:
        super().__init__()
        self.sizes, inner = sizes, reduced(channels, reduction)
        self.encode = nn.ModuleList(conv_norm(channels, channels) for _ in sizes)
        self.query = nn.Conv2d(channels, inner, 1)
        self.key = nn.Linear(channels, inner)
        self.value = nn.Linear(channels, channels)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        centres = self._centres(x)  # (B, S, C)
        rows = position_attention(pixels(self.query(x)), self.key(centres), self.value(centres))
        return self.gamma * feature_map(rows, x) + x

    def weights(self, x: Tensor, at: tuple[int, int]) -> Tensor:
        """Attention weights of the pixel ``at`` = (row, column), through the centres: (B, H, W).

        The weight of each centre is distributed evenly over the pixels of its bin; the sum is 1.
        """
        return pixel_shares(self.centre_weights(x, at), self.sizes, (x.shape[2], x.shape[3]))

    def centre_weights(self, x: Tensor, at: tuple[int, int] | None = None) -> Tensor:
        """Weights of the pixel ``at`` over the centres: (B, S); of all pixels: (B, N, S).

        Centres of the first size come first, each size in row-major order.
        """
        keys = self.key(self._centres(x))  # (B, S, C / reduction)
        query = pixels(self.query(x if at is None else pixel(x, at)))
        rows = attention_map(query, keys, x, None)
        return rows if at is None else rows[:, 0]

    def _centres(self, x: Tensor) -> Tensor:
        """(B, S, C)."""
        check_batch(x)
        pairs = zip(self.encode, self.sizes, strict=True)
        return torch.cat([pixels(enc(adaptive_avg_pool2d(x, s))) for enc, s in pairs], dim=1)


class CompactChannel(nn.Module):
    r"""Each channel attends to C / 16 centres: learned mixtures of the channels.

    .. math:: y = \gamma \operatorname{softmax}(-X Y^\top) Y + x, \quad
              Y = \operatorname{relu}(\operatorname{BN}(\operatorname{conv}_{1 \times 1} x))

    As in DANet's code, the sign of the products is reversed. The scalar gamma starts at 0, so the
    block starts as the identity.

    Args:
        channels: C, channels of the input and the output.
        reduction: C divided by the number of centres; at least one remains.

    >>> block = CompactChannel(32)
    >>> x = torch.randn(2, 32, 5, 7)
    >>> torch.equal(block(x), x), block.weights(x).shape
    (True, torch.Size([2, 32, 2]))
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.encode = conv_norm(channels, max(1, channels // reduction))
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        centres = self._centres(x)
        mixed = self._weights(x, centres).to(centres.dtype) @ centres  # (B, C, N)
        y: Tensor = self.gamma * mixed.reshape(x.shape) + x
        return y

    def weights(self, x: Tensor) -> Tensor:
        """Weights of each channel over the centres: (B, C, S), rows sum to 1."""
        return self._weights(x, self._centres(x))

    def _centres(self, x: Tensor) -> Tensor:
        """(B, S, N)."""
        check_batch(x)
        centres: Tensor = self.encode(x).flatten(2)
        return centres

    def _weights(self, x: Tensor, centres: Tensor) -> Tensor:
        with no_autocast(x):
            energy = upcast(x).flatten(2) @ upcast(centres).transpose(1, 2)
            return softmax(-energy)


class CrossLevelGate(nn.Module):
    r"""Gated fusion: adds the detail of a shallow feature map to a deep one.

    .. math:: y = \operatorname{conv}(\operatorname{conv}([\gamma \, g \odot l, u])), \quad
              g = \sigma(\operatorname{conv}_{1 \times 1}[l, u])

    l is the shallow feature map after a 3x3 convolution to 32 channels, u the deep one upsampled to
    its size (bilinear, align_corners=True). The 3x3 convolutions have norm and ReLU. gamma starts
    at 1.

    Args:
        channels: channels of the deep feature map.
        low_channels: channels of the shallow feature map.
        outputs: output channels; default ``channels``.
        inner: channels of l.

    >>> gate = CrossLevelGate(16, low_channels=8)
    >>> deep, shallow = torch.randn(2, 16, 5, 7), torch.randn(2, 8, 10, 14)
    >>> gate(deep, shallow).shape
    torch.Size([2, 16, 10, 14])
    """

    def __init__(
        self, channels: int, low_channels: int, outputs: int | None = None, inner: int = 32
    ) -> None:
        super().__init__()
        self.low = conv_norm(low_channels, inner, 3)
        self.gate = nn.Conv2d(channels + inner, 1, 1)
        self.fuse = conv_norm(channels + inner, channels, 3)
        self.out = conv_norm(channels, outputs or channels, 3)
        self.gamma = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, low: Tensor) -> Tensor:
        """(B, C, h, w) and (B, low channels, H, W) -> (B, outputs, H, W)."""
        low, high = self._levels(x, low)
        refined = self.gamma * self._gate(low, high) * low  # (B, inner, H, W)
        y: Tensor = self.out(self.fuse(torch.cat([refined, high], dim=1)))
        return y

    def gates(self, x: Tensor, low: Tensor) -> Tensor:
        """The gate of each pixel of the shallow feature map, between 0 and 1: (B, H, W)."""
        return self._gate(*self._levels(x, low))[:, 0]

    def _levels(self, x: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        check_batch(x, low)
        high = interpolate(x, low.shape[2:], mode="bilinear", align_corners=True)
        return self.low(low), high

    def _gate(self, low: Tensor, high: Tensor) -> Tensor:
        gate: Tensor = self.gate(torch.cat([low, high], dim=1)).sigmoid()
        return gate
