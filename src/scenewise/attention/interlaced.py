"""Interlaced sparse attention: distant pixels on a coarse grid, then close ones in tiles.

Huang, Yuan et al., "Interlaced Sparse Self-Attention for Semantic Segmentation", arXiv 1907.12273.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from scenewise.attention.layers import check_batch, check_choice, conv_norm
from scenewise.attention.position import attention_map, pixel, pixels, position_attention

Variant = Literal["openseg", "mmseg"]


class InterlacedSparse(nn.Module):
    r"""Two sparse attentions in series, concatenated with the input.

    .. math:: y = \operatorname{conv}([x, \operatorname{near}(\operatorname{far}(x))])

    The feature map is padded with zeros to whole tiles of th x tw pixels. The far attention
    connects a pixel with the pixels at the same place of every tile, the near one with those of its
    own tile; together they connect all pixels. The attention maps have N (N / T + T) entries for
    T = th tw, and are never in memory as a whole. Query and key are two 1x1 convolutions with norm
    and activation, the value a plain one, scale 1/sqrt(d). As in the released code, padded pixels
    take part. ``"openseg"``, the authors' code: values without bias, leaky ReLU 0.01 (their
    published weights use it), x first in the concatenation, dropout of whole channels. ``"mmseg"``:
    values with bias, ReLU, x last, no dropout.

    Args:
        channels: C, channels of the input and the output; of the values too.
        key_channels: d, of query and key; default C / 2.
        tile: (th, tw), the size of a tile.
        dropout: probability, in ``"openseg"``.
        variant: ``"openseg"`` or ``"mmseg"``.

    Raises:
        ValueError: unknown variant.

    >>> InterlacedSparse(16, tile=(2, 3))(torch.randn(2, 16, 5, 7)).shape
    torch.Size([2, 16, 5, 7])
    """

    def __init__(
        self,
        channels: int,
        key_channels: int | None = None,
        tile: tuple[int, int] = (8, 8),
        dropout: float = 0.05,
        variant: Variant = "openseg",
    ) -> None:
        super().__init__()
        check_choice("variant", variant, get_args(Variant))
        inner, openseg = key_channels or channels // 2, variant == "openseg"
        slope = 0.01 if openseg else 0.0
        self.tile, self.variant = (tile[0], tile[1]), variant
        self.far = GroupAttention(channels, inner, bias=not openseg, slope=slope)
        self.near = GroupAttention(channels, inner, bias=not openseg, slope=slope)
        self.mix = conv_norm(2 * channels, channels, slope=slope)
        self.dropout = nn.Dropout2d(dropout) if openseg else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        top, left = self._margin(x)
        padded = self._pad(x)
        far = self._far(padded)
        groups = self.near.gather(*(self._tiles(m) for m in self.near.project(far)))  # (B G, T, C)
        near = self.near.out(self._from_tiles(groups, padded))
        near = near[:, :, top : top + x.shape[2], left : left + x.shape[3]]
        parts = [x, near] if self.variant == "openseg" else [near, x]
        y: Tensor = self.dropout(self.mix(torch.cat(parts, dim=1)))
        return y

    def weights(self, x: Tensor, at: tuple[int, int]) -> Tensor:
        """Attention weights of the pixel ``at`` = (row, column) over both attentions: (B, H, W).

        One row of the product of both attention maps. The sum is 1 minus the weight of the padding.
        """
        (top, left), padded = self._margin(x), self._pad(x)
        pixel(x, at)  # checks
        th, tw = self.tile
        row, column = at[0] + top, at[1] + left
        tile = (
            slice(row // th * th, row // th * th + th),
            slice(column // tw * tw, column // tw * tw + tw),
        )
        query, key, _ = self.near.project(self._far(padded))
        own = query[..., row : row + 1, column : column + 1]
        near = attention_map(
            pixels(own), pixels(key[..., tile[0], tile[1]]), x, None, self.near.scale
        )  # (B, 1, T)
        query, key, _ = self.far.project(padded)
        queries = pixels(query[..., tile[0], tile[1]]).flatten(0, 1)[:, None]  # (B T, 1, d)
        far = attention_map(queries, self._grids(key), x, None, self.far.scale)  # (B T, 1, G)
        groups = near.reshape(-1, 1, 1) * far  # the product of both maps
        spread = self._from_grids(groups.transpose(1, 2), padded[:, :1])[:, 0]
        return spread[:, top : top + x.shape[2], left : left + x.shape[3]]

    def _far(self, padded: Tensor) -> Tensor:
        groups = self.far.gather(*(self._grids(m) for m in self.far.project(padded)))
        far: Tensor = self.far.out(self._from_grids(groups, padded))
        return far

    def _margin(self, x: Tensor) -> tuple[int, int]:
        """Rows of padding at the top, columns of padding on the left."""
        check_batch(x)
        th, tw = self.tile
        return _missing(x.shape[2], th) // 2, _missing(x.shape[3], tw) // 2

    def _pad(self, x: Tensor) -> Tensor:
        th, tw = self.tile
        top, left = self._margin(x)
        rows, columns = _missing(x.shape[2], th), _missing(x.shape[3], tw)
        return pad(x, (left, columns - left, top, rows - top))

    def _split(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, tiles down, th, tiles along, tw)."""
        th, tw = self.tile
        return x.reshape(*x.shape[:2], x.shape[2] // th, th, x.shape[3] // tw, tw)

    def _grids(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B T, G, C): the pixels at the same place of each of the G tiles."""
        return self._split(x).permute(0, 3, 5, 2, 4, 1).flatten(3, 4).flatten(0, 2)

    def _tiles(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B G, T, C): the T pixels of each tile."""
        return self._split(x).permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(0, 2)

    def _from_grids(self, groups: Tensor, padded: Tensor) -> Tensor:
        (th, tw), (batch, _, height, width) = self.tile, padded.shape
        channels = groups.shape[2]
        split = groups.reshape(batch, th, tw, height // th, width // tw, channels)
        split = split.permute(0, 5, 3, 1, 4, 2)  # (B, C, tiles down, th, tiles along, tw)
        return split.reshape(batch, channels, height, width)

    def _from_tiles(self, groups: Tensor, padded: Tensor) -> Tensor:
        (th, tw), (batch, _, height, width) = self.tile, padded.shape
        channels = groups.shape[2]
        split = groups.reshape(batch, height // th, width // tw, th, tw, channels)
        split = split.permute(0, 5, 1, 3, 2, 4)  # (B, C, tiles down, th, tiles along, tw)
        return split.reshape(batch, channels, height, width)


class GroupAttention(nn.Module):
    """The layers of one of the two attentions of :class:`InterlacedSparse`.

    Args:
        channels: C.
        key_channels: d, of query and key.
        bias: whether the value's convolution has a bias.
        slope: negative slope of the activations.
    """

    def __init__(self, channels: int, key_channels: int, *, bias: bool, slope: float) -> None:
        super().__init__()
        self.scale = key_channels**-0.5
        self.query, self.key = (
            nn.Sequential(
                conv_norm(channels, key_channels, slope=slope),
                conv_norm(key_channels, key_channels, slope=slope),
            )
            for _ in range(2)
        )
        self.value = nn.Conv2d(channels, channels, 1, bias=bias)
        self.out = conv_norm(channels, channels, slope=slope)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, (B, d or C, H, W)."""
        return self.query(x), self.key(x), self.value(x)

    def gather(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention within each group: (groups, members, channels)."""
        return position_attention(query, key, value, scale=self.scale)


def _missing(length: int, tile: int) -> int:
    """Padding up to a multiple of ``tile``; without modulo, which symbolic sizes handle badly.

    >>> [_missing(length, 8) for length in (7, 8, 9)]
    [1, 0, 7]
    """
    return (length + tile - 1) // tile * tile - length
