"""Asymmetric non-local attention: all pixels query a pyramid of averages.

Zhu et al., "Asymmetric Non-local Neural Networks for Semantic Segmentation", ICCV 2019.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from scenewise.attention.layers import check_batch, check_choice, conv_norm
from scenewise.attention.position import (
    attention_map,
    feature_map,
    pixel,
    pixels,
    position_attention,
)

Variant = Literal["official", "mmseg"]


def pyramid_average(x: Tensor, sizes: tuple[int, ...] = (1, 3, 6, 8)) -> Tensor:
    """Averages of a feature map in s x s bins for each size s: (B, C, H, W) -> (B, S, C).

    S is the sum of the squares of the sizes, 110 for (1, 3, 6, 8).

    >>> pyramid_average(torch.ones(2, 4, 12, 20)).shape
    torch.Size([2, 110, 4])
    """
    return torch.cat([pixels(adaptive_avg_pool2d(x, s)) for s in sizes], dim=1)


def pixel_shares(shares: Tensor, sizes: tuple[int, ...], size: tuple[int, int]) -> Tensor:
    """Weights of the bins of :func:`pyramid_average`, each distributed evenly over its pixels.

    Args:
        shares: weight of each bin, (B, S).
        sizes: bin sizes of the pyramid.
        size: (H, W) of the feature map that was averaged.

    Returns:
        (B, H, W), with the same sum as ``shares``.

    >>> pixel_shares(torch.tensor([[0.6, 0.4, 0.0, 0.0, 0.0]]), (1, 2), (2, 4))[0]
    tensor([[0.2750, 0.2750, 0.0750, 0.0750],
            [0.0750, 0.0750, 0.0750, 0.0750]])
    """
    blank = shares.new_zeros(shares.shape[0], 1, *size)
    back = torch.func.vjp(lambda x: pyramid_average(x, sizes)[..., 0], blank)[1]  # the adjoint
    spread: Tensor = back(shares)[0][:, 0]  # (B, 1, H, W) -> (B, H, W)
    return spread


class _PyramidAttention(nn.Module):
    """Queries from one feature map, averaged keys and values from another; see the two blocks."""

    def __init__(
        self,
        query_channels: int,
        key_channels: int,
        inner: int,
        sizes: tuple[int, ...],
        variant: Variant,
        shared: bool,
    ) -> None:
        super().__init__()
        check_choice("variant", variant, get_args(Variant))
        self.sizes, self.scale = sizes, inner**-0.5
        bias = variant == "official"
        self.query = conv_norm(query_channels, inner, bias=bias)
        self.key = None if shared else conv_norm(key_channels, inner, bias=bias)
        self.value = nn.Conv2d(key_channels, inner, 1)
        self.out = nn.Conv2d(inner, query_channels, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """(B, C, H, W), (B, D, h, w) -> (B, C, H, W)."""
        check_batch(x, source)
        rows = position_attention(
            pixels(self.query(x)),
            pyramid_average((self.key or self.query)(source), self.sizes),  # (B, S, inner)
            pyramid_average(self.value(source), self.sizes),
            scale=self.scale,
        )  # (B, N, inner)
        context: Tensor = self.out(feature_map(rows, x))
        return context

    def weights(self, x: Tensor, source: Tensor, at: tuple[int, int]) -> Tensor:
        """Weights of the averages, each distributed over the pixels that it averages."""
        check_batch(x, source)
        keys = pyramid_average((self.key or self.query)(source), self.sizes)
        query = pixels(self.query(pixel(x, at)))
        bins = attention_map(query, keys, x, None, self.scale)[:, 0]  # (B, S)
        return pixel_shares(bins, self.sizes, (source.shape[2], source.shape[3]))


class AsymmetricPyramid(nn.Module):
    r"""APNB: self-attention whose keys and values are averages of a pyramid of bins.

    .. math:: y = \operatorname{conv}([W \operatorname{softmax}(d^{-1/2} Q P(K)^\top) P(V), x])

    P averages in 1, 3 x 3, 6 x 6 and 8 x 8 bins: 110 keys at any size, so memory is linear. Q and
    K are one module, a 1x1 convolution with norm and ReLU; W starts at 0, weight and bias.
    ``"official"``: convolutions with bias, dropout of whole channels. ``"mmseg"``: no bias before
    a norm, no dropout.

    Args:
        channels: C, channels of the input and the output.
        key_channels: d, of queries, keys and values; default C / 2.
        sizes: numbers of bins along each axis.
        dropout: probability, in ``"official"``.
        variant: ``"official"`` or ``"mmseg"``.

    Raises:
        ValueError: unknown variant.

    >>> AsymmetricPyramid(16)(torch.randn(2, 16, 9, 11)).shape
    torch.Size([2, 16, 9, 11])
    """

    def __init__(
        self,
        channels: int,
        key_channels: int | None = None,
        sizes: tuple[int, ...] = (1, 3, 6, 8),
        dropout: float = 0.05,
        variant: Variant = "official",
    ) -> None:
        super().__init__()
        inner = key_channels or channels // 2
        self.attention = _PyramidAttention(channels, channels, inner, sizes, variant, shared=True)
        official = variant == "official"
        self.mix = conv_norm(2 * channels, channels, bias=official)
        self.dropout = nn.Dropout2d(dropout) if official else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        y: Tensor = self.dropout(self.mix(torch.cat([self.attention(x, x), x], dim=1)))
        return y

    def weights(self, x: Tensor, at: tuple[int, int]) -> Tensor:
        """Attention weights of the pixel ``at`` through the averages to pixels: (B, H, W)."""
        return self.attention.weights(x, x, at)


class AsymmetricFusion(nn.Module):
    r"""AFNB: a deep feature map attends to a shallower one, then both are mixed.

    As :class:`AsymmetricPyramid`, but keys and values come from the second input, Q and K are two
    modules, and the last convolution has a norm and no activation.

    Args:
        channels: C of the deep feature map, input and output.
        low_channels: channels of the shallower one, whose size may differ.
        key_channels: d, of queries, keys and values; default C / 8, as 256 of 2048.
        sizes: numbers of bins along each axis.
        dropout: probability, in ``"official"``.
        variant: ``"official"`` or ``"mmseg"``.

    Raises:
        ValueError: unknown variant.

    >>> block = AsymmetricFusion(16, low_channels=8)
    >>> block(torch.randn(2, 16, 9, 11), torch.randn(2, 8, 9, 11)).shape
    torch.Size([2, 16, 9, 11])
    """

    def __init__(
        self,
        channels: int,
        low_channels: int,
        key_channels: int | None = None,
        sizes: tuple[int, ...] = (1, 3, 6, 8),
        dropout: float = 0.05,
        variant: Variant = "official",
    ) -> None:
        super().__init__()
        inner = key_channels or channels // 8
        self.attention = _PyramidAttention(
            channels, low_channels, inner, sizes, variant, shared=False
        )
        official = variant == "official"
        self.mix = conv_norm(2 * channels, channels, bias=official, slope=None)
        self.dropout = nn.Dropout2d(dropout) if official else nn.Identity()

    def forward(self, x: Tensor, low: Tensor) -> Tensor:
        """(B, C, H, W) and (B, low channels, h, w) -> (B, C, H, W)."""
        y: Tensor = self.dropout(self.mix(torch.cat([self.attention(x, low), x], dim=1)))
        return y

    def weights(self, x: Tensor, low: Tensor, at: tuple[int, int]) -> Tensor:
        """Attention weights of the pixel ``at`` of ``x`` over the pixels of ``low``: (B, h, w)."""
        return self.attention.weights(x, low, at)
