"""Point-wise spatial attention: weights are predicted from each pixel alone, for every offset.

Zhao et al., "PSANet: Point-wise Spatial Attention Network for Scene Parsing", ECCV 2018.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from scenewise.attention.kernels.precision import no_autocast, upcast
from scenewise.attention.layers import conv_norm
from scenewise.attention.position import pixel


def offset_energies(masks: Tensor, mask_size: tuple[int, int]) -> Tensor:
    r"""Energies between pixels, looked up by the offset between them.

    .. math:: e_{ij} = m_j[i - j]

    Each pixel j predicts one number for each offset, with offset 0 in the middle of its mask.
    Pairs further apart than the mask reaches get 0, as in the authors' code.

    Args:
        masks: m, (B, mask height * mask width, H, W).
        mask_size: (height, width) of a mask, both odd.

    Returns:
        (B, N, N), first i, then j.

    >>> masks = torch.arange(9.0).view(1, 9, 1, 1).expand(1, 9, 1, 2)
    >>> offset_energies(masks, (3, 3))  # 4 is offset 0, 3 one to the left, 5 one to the right
    tensor([[[4., 3.],
             [5., 4.]]])
    """
    height, width = masks.shape[2:]
    rows = torch.arange(height, device=masks.device)[:, None].expand(height, width).flatten()
    columns = torch.arange(width, device=masks.device).repeat(height)
    down = rows[:, None] - rows + mask_size[0] // 2  # (N, N)
    right = columns[:, None] - columns + mask_size[1] // 2
    inside = (down >= 0) & (down < mask_size[0]) & (right >= 0) & (right < mask_size[1])
    index = torch.where(inside, down * mask_size[1] + right, 0)
    energies = masks.flatten(2).gather(1, index.expand(masks.shape[0], *index.shape))
    return energies.masked_fill(~inside, 0.0)


class PointwiseSpatial(nn.Module):
    r"""PSA: every pixel collects from all others, and all others distribute to it.

    .. math:: y = \operatorname{conv}([\operatorname{softmax}(E_c^\top) X_c, \
              \operatorname{softmax}(E_d) X_d])

    Two branches, each with a 1x1 convolution to ``inner`` channels, shrunk by ``shrink``
    (bilinear, align_corners=True), and two 1x1 convolutions to masks E, see
    :func:`offset_energies`. When collecting, the weights between two pixels come from the one that
    receives; when distributing, from the one that gives. Both softmaxes run over the givers.
    A last 1x1 convolution leads back to C channels; its output is upsampled. All but the masks
    carry norm and ReLU, no bias. The result is what was gathered: PSANet sets it beside x.

    The masks tie the block to a largest feature size; on larger maps, pairs out of reach get
    energy 0. The map of pairs is in memory: (N / ``shrink`` ** 2) ** 2 numbers for each branch.

    Args:
        channels: C, channels of the input and the output.
        size: (H, W), the largest feature map of which all pairs are to be reached.
        inner: channels of the branches; default C / 4.
        shrink: how much smaller the map of the attention is.

    >>> PointwiseSpatial(16, size=(9, 11))(torch.randn(2, 16, 9, 11)).shape
    torch.Size([2, 16, 9, 11])
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        inner: int | None = None,
        shrink: int = 2,
    ) -> None:
        super().__init__()
        inner = inner or channels // 4
        self.shrink = shrink
        self.mask_size = (2 * _shrunk(size[0], shrink) - 1, 2 * _shrunk(size[1], shrink) - 1)
        offsets = self.mask_size[0] * self.mask_size[1]

        def masks() -> nn.Sequential:
            return nn.Sequential(conv_norm(inner, inner), nn.Conv2d(inner, offsets, 1, bias=False))

        self.collect = conv_norm(channels, inner)
        self.collect_masks = masks()
        self.distribute = conv_norm(channels, inner)
        self.distribute_masks = masks()
        self.out = conv_norm(2 * inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        collect, distribute = self._maps(x)
        gathered = [
            source.flatten(2) @ weights.transpose(1, 2).to(source.dtype)
            for source, weights in zip(
                (collect, distribute), self._weights(collect, distribute), strict=True
            )
        ]
        out = self.out(torch.cat(gathered, dim=1).reshape(x.shape[0], -1, *collect.shape[2:]))
        y: Tensor = interpolate(out, x.shape[2:], mode="bilinear", align_corners=True)
        return y

    def weights(self, x: Tensor, at: tuple[int, int] | None = None) -> Tensor:
        """What the pixel ``at`` gathers from, on the shrunk map: (B, h, w), sum 1.

        The mean of both branches. Without ``at``, all rows: (B, n, n) for n = h w.
        """
        collect, distribute = self._maps(x)
        whole = torch.stack(self._weights(collect, distribute)).mean(0)
        if at is None:
            return whole
        pixel(x, at)
        height, width = collect.shape[2:]
        row, column = (
            (at[0] + self.shrink // 2) // self.shrink,
            (at[1] + self.shrink // 2) // self.shrink,
        )
        i = min(row, height - 1) * width + min(column, width - 1)
        return whole[:, i].reshape(-1, height, width)

    def _maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is collected and what is distributed, shrunk: (B, inner, h, w) each."""
        size = _shrunk(x.shape[2], self.shrink), _shrunk(x.shape[3], self.shrink)
        collect, distribute = (
            interpolate(branch(x), size, mode="bilinear", align_corners=True)
            for branch in (self.collect, self.distribute)
        )
        return collect, distribute

    def _weights(self, collect: Tensor, distribute: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of collecting and of distributing, (B, receivers, givers), rows sum to 1."""
        of_receivers = self.collect_masks(collect)
        of_givers = self.distribute_masks(distribute)
        with no_autocast(collect):
            collecting = offset_energies(upcast(of_receivers), self.mask_size).transpose(1, 2)
            distributing = offset_energies(upcast(of_givers), self.mask_size)
            return collecting.softmax(-1), distributing.softmax(-1)


def _shrunk(length: int, shrink: int) -> int:
    return (length - 1) // shrink + 1
