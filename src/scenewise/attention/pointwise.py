"""Point-wise spatial attention: each pixel predicts its attention weights for every offset.

Zhao et al., "PSANet: Point-wise Spatial Attention Network for Scene Parsing", ECCV 2018.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from scenewise.attention.kernels.precision import no_autocast, upcast
from scenewise.attention.layers import check_batch, conv_norm
from scenewise.attention.position import pixel


def offset_energies(masks: Tensor, mask_size: tuple[int, int]) -> Tensor:
    r"""Energies between pixels, looked up by the offset between them.

    .. math:: e_{ij} = m_j[i - j]

    Each pixel j predicts one number for each offset, with offset 0 in the centre of its mask.
    Pairs further apart than the mask covers get 0, as in the authors' code.

    Args:
        masks: m, (B, mask height * mask width, H, W).
        mask_size: (height, width) of a mask, both odd.

    Returns:
        (B, N, N), indexed by i, then j.

    >>> masks = torch.arange(9.0).view(1, 9, 1, 1).expand(1, 9, 1, 2)
    >>> offset_energies(masks, (3, 3))  # 4 is offset 0, 3 one to the left, 5 one to the right
    tensor([[[4., 3.],
             [5., 4.]]])
    """
    height, width = masks.shape[2:]
    rows = torch.arange(height, device=masks.device)[:, None].expand(height, width).flatten()
    columns = torch.arange(width, device=masks.device).repeat(height)
    down = rows[:, None] - rows + mask_size[0] // 2  # (N, N), row of i - j in the mask
    right = columns[:, None] - columns + mask_size[1] // 2
    inside = (down >= 0) & (down < mask_size[0]) & (right >= 0) & (right < mask_size[1])
    index = torch.where(inside, down * mask_size[1] + right, 0)
    energies = masks.flatten(2).gather(1, index.expand(masks.shape[0], *index.shape))  # (B, N, N)
    return energies.masked_fill(~inside, 0.0)


class PointwiseSpatial(nn.Module):
    r"""PSA: each pixel collects from all pixels, and each pixel distributes to all pixels.

    .. math:: y = \operatorname{conv}([\operatorname{softmax}(E_c^\top) X_c, \
              \operatorname{softmax}(E_d) X_d])

    Two branches, each with a 1x1 convolution to ``inner`` channels, shrunk by ``shrink``
    (bilinear, align_corners=True), and two 1x1 convolutions to masks E, see
    :func:`offset_energies`. When collecting, the target pixel predicts the weights; when
    distributing, the source pixel does. Both softmaxes are over the source pixels. A last 1x1
    convolution restores C channels; its output is upsampled. All layers but the masks have norm and
    ReLU, no bias. The result is the context alone: PSANet concatenates it with x.

    The masks fix the largest feature size; on larger feature maps, pairs out of range get energy 0.
    The attention maps are in memory: (N / ``shrink`` ** 2) ** 2 numbers for each branch.

    Args:
        channels: C, channels of the input and the output.
        size: (H, W) of the largest feature map whose pairs are all covered.
        inner: channels of the branches; default C / 4.
        shrink: factor by which the attention's resolution is reduced.

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
        collect, distribute = self._low_res(x)
        gathered = [
            (source.flatten(2) @ weights.transpose(1, 2).to(source.dtype)).reshape(source.shape)
            for source, weights in zip(
                (collect, distribute), self._weights(collect, distribute), strict=True
            )
        ]
        out = self.out(torch.cat(gathered, dim=1))
        y: Tensor = interpolate(out, x.shape[2:], mode="bilinear", align_corners=True)
        return y

    def weights(self, x: Tensor, at: tuple[int, int] | None = None) -> Tensor:
        """Attention weights of the pixel ``at``, at the reduced resolution: (B, h, w), sum 1.

        The mean of both branches. Without ``at``, all rows: (B, n, n) for n = h w.
        """
        collect, distribute = self._low_res(x)
        whole = torch.stack(self._weights(collect, distribute)).mean(0)
        if at is None:
            return whole
        pixel(x, at)  # checks
        height, width = collect.shape[2:]
        row, column = ((i + self.shrink // 2) // self.shrink for i in at)  # the nearest one
        i = min(row, height - 1) * width + min(column, width - 1)
        return whole[:, i].reshape(-1, height, width)

    def _low_res(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The features of both branches at the reduced resolution: (B, inner, h, w) each."""
        check_batch(x)
        size = _shrunk(x.shape[2], self.shrink), _shrunk(x.shape[3], self.shrink)
        collect, distribute = (
            interpolate(branch(x), size, mode="bilinear", align_corners=True)
            for branch in (self.collect, self.distribute)
        )
        return collect, distribute

    def _weights(self, collect: Tensor, distribute: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of collecting and of distributing, (B, targets, sources), rows sum to 1."""
        of_targets = self.collect_masks(collect)  # (B, offsets, h, w)
        of_sources = self.distribute_masks(distribute)
        with no_autocast(collect):
            collecting = offset_energies(upcast(of_targets), self.mask_size).transpose(1, 2)
            distributing = offset_energies(upcast(of_sources), self.mask_size)
            return collecting.softmax(-1), distributing.softmax(-1)


def _shrunk(length: int, shrink: int) -> int:
    return (length - 1) // shrink + 1  # as align_corners=True keeps both ends
