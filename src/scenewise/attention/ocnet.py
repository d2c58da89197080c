"""Object context: the attention output is concatenated with the features, not added to them.

Yuan & Wang, "OCNet: Object Context Network for Scene Parsing", arXiv 1809.00916, IJCV 2021.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from scenewise.attention.kernels.precision import no_autocast, upcast
from scenewise.attention.layers import check_batch, check_choice, conv_norm
from scenewise.attention.position import feature_map, pixel, pixels, position_attention

Variant = Literal["ocnet", "openseg"]

_SLOPE = 0.01  # of leaky ReLU in both releases


class ObjectAttention(nn.Module):
    r"""The attention of all OCNet blocks; it returns the context without a residual.

    .. math:: y = W \operatorname{softmax}(d^{-1/2} Q K^\top) V

    ``"ocnet"``, the first release, has one module for Q and K: a 1x1 convolution, norm, leaky ReLU.
    ``"openseg"``, the second, has one each, of two such stages. W starts at 0, weight and bias.

    Args:
        channels: C.
        key_channels: d, of query and key.
        value_channels: channels of the values.
        pool: max-pool the input by this factor first, and upsample the result bilinearly
            (align_corners=True).
        tiles: attend within each of tiles x tiles parts; the last ones have the remainder.
        variant: ``"ocnet"`` or ``"openseg"``.

    Raises:
        ValueError: unknown variant.

    >>> ObjectAttention(16, 8, 8, pool=2)(torch.randn(2, 16, 5, 7)).abs().max().item()
    0.0
    """

    def __init__(
        self,
        channels: int,
        key_channels: int,
        value_channels: int,
        *,
        pool: int = 1,
        tiles: int = 1,
        variant: Variant = "ocnet",
    ) -> None:
        super().__init__()
        check_choice("variant", variant, get_args(Variant))
        self.pool, self.tiles = pool, tiles
        self.scale = key_channels**-0.5
        self.query = conv_norm(channels, key_channels, bias=True, slope=_SLOPE)
        self.key: nn.Sequential | None = None
        if variant == "openseg":
            self.query.extend(conv_norm(key_channels, key_channels, bias=True, slope=_SLOPE))
            self.key = conv_norm(channels, key_channels, bias=True, slope=_SLOPE)
            self.key.extend(conv_norm(key_channels, key_channels, bias=True, slope=_SLOPE))
        self.value = nn.Conv2d(channels, value_channels, 1)
        self.out = nn.Conv2d(value_channels, channels, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        check_batch(x)
        size = x.shape[2:]
        x = _pooled(x, self.pool)
        query = self.query(x)
        key = query if self.key is None else self.key(x)
        context: Tensor = self.out(self._gather(query, key, self.value(x)))
        if self.pool == 1:
            return context
        full: Tensor = interpolate(context, size, mode="bilinear", align_corners=True)
        return full

    def _gather(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention within each tile of query, key and value: (B, value channels, h, w)."""
        rows = []
        for top, bottom in _edges(query.shape[2], self.tiles):
            row = []
            for left, right in _edges(query.shape[3], self.tiles):
                q, k, v = (x[..., top:bottom, left:right] for x in (query, key, value))
                tile = position_attention(pixels(q), pixels(k), pixels(v), scale=self.scale)
                row.append(feature_map(tile, v))  # (B, C, h, w)
            rows.append(torch.cat(row, dim=3))
        return torch.cat(rows, dim=2)

    def weights(self, x: Tensor, at: tuple[int, int] | None = None) -> Tensor:
        """Attention weights of the pixel ``at`` = (row, column): (B, H, W), or of the pooled size.

        Zero outside the pixel's tile. Without ``at``, the whole attention map, (B, N, N).
        """
        check_batch(x)
        if at is not None:
            pixel(x, at)  # checks
        x = _pooled(x, self.pool)
        height, width = x.shape[2:]
        tile = _tile_of_each_pixel(height, width, self.tiles).to(x.device)
        own, queries = tile.flatten(), x
        if at is not None:
            row, column = (min(at[i] // self.pool, x.shape[2 + i] - 1) for i in (0, 1))
            own, queries = tile[row, column].view(1), pixel(x, (row, column))
        query, key = pixels(self.query(queries)), pixels((self.key or self.query)(x))
        with no_autocast(x):
            energy = upcast(query) @ upcast(key).transpose(1, 2) * self.scale  # (B, Nq, N)
            energy = energy.masked_fill(own[:, None] != tile.flatten(), float("-inf"))
            weights: Tensor = energy.softmax(-1)
        return weights if at is None else weights.view(-1, height, width)


def _pooled(x: Tensor, pool: int) -> Tensor:
    """Max-pool by ``pool``; a side that is shorter becomes one pixel."""
    if pool == 1:
        return x
    if torch.compiler.is_compiling():  # sizes are symbolic, min() would fix them
        return max_pool2d(x, pool)
    return max_pool2d(x, (min(pool, x.shape[2]), min(pool, x.shape[3])))


class BaseOC(nn.Module):
    r"""OCNet's base block: the features concatenated with their object context, then mixed.

    .. math:: y = \operatorname{conv}_{1 \times 1}([\operatorname{attention}(x), x])

    Args:
        channels: C, channels of the input and the output; query, key and value have C / 2.
        pool: 2 attends at half the resolution, for small GPUs.
        dropout: probability of dropping whole channels after the block.
        variant: see :class:`ObjectAttention`.

    >>> BaseOC(16)(torch.randn(2, 16, 5, 7)).shape
    torch.Size([2, 16, 5, 7])
    """

    def __init__(
        self, channels: int, pool: int = 1, dropout: float = 0.05, variant: Variant = "ocnet"
    ) -> None:
        super().__init__()
        half = channels // 2
        self.attention = ObjectAttention(channels, half, half, pool=pool, variant=variant)
        self.mix = conv_norm(2 * channels, channels, bias=True, slope=_SLOPE)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        mixed: Tensor = self.dropout(self.mix(torch.cat([self.attention(x), x], dim=1)))
        return mixed

    def weights(self, x: Tensor, at: tuple[int, int] | None = None) -> Tensor:
        """See :meth:`ObjectAttention.weights`."""
        return self.attention.weights(x, at)


class PyramidOC(nn.Module):
    r"""OCNet's pyramid block: object context within 1, 2 x 2, 3 x 3 and 6 x 6 tiles.

    The features, projected to 4 C by a 1x1 convolution, are concatenated with the four contexts; a
    last 1x1 convolution reduces 8 C to C. Keys have C / 2 channels, values C. (The openseg release
    uses the backbone's 2048 channels instead of the projected features; here the block takes one
    input in both variants.)

    Args:
        channels: C, channels of the input and the output.
        sizes: numbers of tiles along each axis, one attention for each entry.
        dropout: probability of dropping whole channels after the block.
        variant: see :class:`ObjectAttention`.

    >>> PyramidOC(16)(torch.randn(2, 16, 5, 7)).shape
    torch.Size([2, 16, 5, 7])
    """

    def __init__(
        self,
        channels: int,
        sizes: tuple[int, ...] = (1, 2, 3, 6),
        dropout: float = 0.05,
        variant: Variant = "ocnet",
    ) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(
            ObjectAttention(channels, channels // 2, channels, tiles=s, variant=variant)
            for s in sizes
        )
        wide = len(sizes) * channels
        self.widen = conv_norm(channels, wide, bias=True, slope=_SLOPE)
        self.mix = conv_norm(2 * wide, channels, bias=True, slope=_SLOPE)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        check_batch(x)
        parts = [self.widen(x), *(attention(x) for attention in self.attentions)]
        mixed: Tensor = self.dropout(self.mix(torch.cat(parts, dim=1)))
        return mixed

    def weights(self, x: Tensor, at: tuple[int, int] | None = None) -> Tensor:
        """The mean of the attention weights over the sizes; (B, H, W) or (B, N, N)."""
        each = [attention.weights(x, at) for attention in self.attentions]  # type: ignore[operator]
        return torch.stack(each).mean(0)


class ASPOC(nn.Module):
    r"""OCNet's ASP block: object context as one branch of an atrous spatial pyramid.

    Five branches of C / 2 channels: object context of a 3x3 convolution, at half the resolution; a
    1x1 convolution; three 3x3 convolutions of dilation 12, 24 and 36. A last 1x1 convolution
    reduces their concatenation to C. In the context branch, ``"ocnet"`` has values of C / 2
    channels and a 1x1 convolution after the attention, ``"openseg"`` values of C / 4 and none.

    Args:
        channels: C, channels of the input and the output.
        dilations: dilations of the 3x3 branches.
        dropout: probability of dropping whole channels after the block.
        variant: see also :class:`ObjectAttention`.

    >>> ASPOC(16)(torch.randn(2, 16, 5, 7)).shape
    torch.Size([2, 16, 5, 7])
    """

    def __init__(
        self,
        channels: int,
        dilations: tuple[int, ...] = (12, 24, 36),
        dropout: float = 0.1,
        variant: Variant = "ocnet",
    ) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        ocnet = variant == "ocnet"
        self.reduce = conv_norm(channels, half, 3, bias=True, slope=_SLOPE)
        values = half if ocnet else quarter
        self.attention = ObjectAttention(half, quarter, values, pool=2, variant=variant)
        if ocnet:
            self.refine = conv_norm(half, half, bias=True, slope=_SLOPE)
        else:
            self.refine = nn.Sequential(nn.BatchNorm2d(half), nn.LeakyReLU(_SLOPE, inplace=True))
        self.branches = nn.ModuleList(
            [
                conv_norm(channels, half, slope=_SLOPE),
                *(conv_norm(channels, half, 3, dilation=d, slope=_SLOPE) for d in dilations),
            ]
        )
        self.mix = conv_norm((2 + len(dilations)) * half, channels, slope=_SLOPE)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W); H and W are 2 or larger."""
        check_batch(x)
        context = self.refine(self.attention(self.reduce(x)))
        parts = [context, *(branch(x) for branch in self.branches)]
        mixed: Tensor = self.dropout(self.mix(torch.cat(parts, dim=1)))
        return mixed

    def weights(self, x: Tensor, at: tuple[int, int] | None = None) -> Tensor:
        """Attention weights of the context branch, at half the resolution."""
        check_batch(x)
        return self.attention.weights(self.reduce(x), at)


def _edges(length: int, tiles: int) -> list[tuple[int, int]]:
    """Start and end of each tile; the last has the remainder; one tile if ``length`` is too short.

    >>> _edges(7, 3), _edges(2, 3)
    ([(0, 2), (2, 4), (4, 7)], [(0, 2)])
    """
    if length < tiles:
        return [(0, length)]
    step = length // tiles
    starts = [i * step for i in range(tiles)]
    return list(zip(starts, [*starts[1:], length], strict=True))


def _tile_of_each_pixel(height: int, width: int, tiles: int) -> Tensor:
    """(H, W), the index of each pixel's tile."""
    rows, columns = (
        torch.cat([torch.full((stop - start,), i) for i, (start, stop) in enumerate(edges)])
        for edges in (_edges(height, tiles), _edges(width, tiles))
    )
    return rows[:, None] * tiles + columns
