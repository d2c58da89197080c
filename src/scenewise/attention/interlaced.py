"""Interlaced sparse attention: far pixels first, on a coarse comb, then near ones, in tiles.

Huang, Yuan et al., "Interlaced Sparse Self-Attention for Semantic Segmentation", arXiv 1907.12273.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from scenewise.attention.layers import conv_norm
from scenewise.attention.position import attention_map, pixel, pixels, position_attention

Variant = Literal["openseg", "mmseg"]


class InterlacedSparse(nn.Module):
    r"""Two attentions in series instead of a dense one, then the features beside them.

    .. math:: y = \operatorname{conv}([x, \operatorname{near}(\operatorname{far}(x))])

    The map is padded with zeros to whole tiles of th x tw pixels. In the far attention a pixel
    meets the pixels of the same place in every tile, in the near one those of its own tile; so
    each reaches all. Maps of pairs have N (N / T + T) entries for T = th tw, and none is held
    whole. Query and key are two 1x1 convolutions with norm and activation, the value one alone,
    scale 1/sqrt(d). As in the released codes, padding takes part as pixels do. ``"openseg"``, the
    authors' code: values without bias, leaky ReLU 0.01 (their published weights use it), x first in
    the concatenation, dropout of whole maps. ``"mmseg"``: values with bias, ReLU, x last, no
    dropout.

    Args:
        channels: C, channels of the input and the output; of the values too.
        key_channels: d, of query and key; default C / 2.
        tile: (th, tw).
        dropout: probability, of ``"openseg"``.
        variant: ``"openseg"`` or ``"mmseg"``.

    Raises:
        ValueError: another variant.

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
        if variant not in ("openseg", "mmseg"):
            raise ValueError(f"variant is 'openseg' or 'mmseg', not '{variant}'")
        inner, first = key_channels or channels // 2, variant == "openseg"
        slope = 0.01 if first else 0.0
        self.tile, self.variant = (tile[0], tile[1]), variant
        self.far = GroupAttention(channels, inner, bias=not first, slope=slope)
        self.near = GroupAttention(channels, inner, bias=not first, slope=slope)
        self.mix = conv_norm(2 * channels, channels, slope=slope)
        self.dropout = nn.Dropout2d(dropout) if first else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        top, left = self._margin(x)
        padded = self._pad(x)
        far = self._far(padded)
        groups = self.near.gather(*(self._tiles(m) for m in self.near.project(far)))
        near = self.near.out(self._from_tiles(groups, padded))
        near = near[:, :, top : top + x.shape[2], left : left + x.shape[3]]
        parts = [x, near] if self.variant == "openseg" else [near, x]
        y: Tensor = self.dropout(self.mix(torch.cat(parts, dim=1)))
        return y

    def weights(self, x: Tensor, at: tuple[int, int]) -> Tensor:
        """What the pixel ``at`` = (row, column) gathers from over both attentions: (B, H, W).

        The row of the product of both maps, computed alone. The sum is 1, less what falls on the
        padding.
        """
        pixel(x, at)
        (top, left), padded = self._margin(x), self._pad(x)
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
        )
        query, key, _ = self.far.project(padded)
        queries = pixels(query[..., tile[0], tile[1]]).flatten(0, 1)[:, None]  # (B T, 1, d)
        far = attention_map(queries, self._combs(key), x, None, self.far.scale)  # (B T, 1, G)
        groups = near.reshape(-1, 1, 1) * far
        spread = self._from_combs(groups.transpose(1, 2), padded[:, :1])[:, 0]
        return spread[:, top : top + x.shape[2], left : left + x.shape[3]]

    def _far(self, padded: Tensor) -> Tensor:
        groups = self.far.gather(*(self._combs(m) for m in self.far.project(padded)))
        far: Tensor = self.far.out(self._from_combs(groups, padded))
        return far

    def _margin(self, x: Tensor) -> tuple[int, int]:
        """Rows of padding above, columns of padding on the left."""
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

    def _combs(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B T, G, C): pixels of the same place in each of the G tiles."""
        return self._split(x).permute(0, 3, 5, 2, 4, 1).flatten(3, 4).flatten(0, 2)

    def _tiles(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B G, T, C): pixels of the same tile."""
        return self._split(x).permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(0, 2)

    def _from_combs(self, groups: Tensor, padded: Tensor) -> Tensor:
        (th, tw), (batch, _, height, width) = self.tile, padded.shape
        split = groups.reshape(batch, th, tw, height // th, width // tw, -1)
        return split.permute(0, 5, 3, 1, 4, 2).reshape(batch, -1, height, width)

    def _from_tiles(self, groups: Tensor, padded: Tensor) -> Tensor:
        (th, tw), (batch, _, height, width) = self.tile, padded.shape
        split = groups.reshape(batch, height // th, width // tw, th, tw, -1)
        return split.permute(0, 5, 1, 3, 2, 4).reshape(batch, -1, height, width)


class GroupAttention(nn.Module):
    """The layers of one of the two attentions.

    Args:
        channels: C.
        key_channels: d.
        bias: of the value's convolution.
        slope: of the activations for negative numbers.
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
        """Query, key and value maps."""
        return self.query(x), self.key(x), self.value(x)

    def gather(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention inside each group: (groups, members, channels)."""
        return position_attention(query, key, value, scale=self.scale)


def _missing(length: int, tile: int) -> int:
    """What is missing to whole tiles; written so that symbolic sizes stay simple.

    >>> [_missing(length, 8) for length in (7, 8, 9)]
    [1, 0, 7]
    """
    return (length + tile - 1) // tile * tile - length
