"""3 x 3 convolutions with a quarter of the multiplications, for inference on CPUs.

A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016: F(4 x 4, 3 x
3) makes 16 outputs of a channel from 36 products instead of 144. Here the products of all channels
and tiles are 36 matrix products, which PyTorch does at full speed. A dilated convolution is a plain
one on each phase of the picture.
"""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# output = A' [(G kernel G') * (B' tile B)] A, for 6 x 6 tiles that overlap by 2
_B = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_G = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
_A = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
_TILES = 128  # at once: what they need stays in a cache, and products stay large
_LARGE = 1 << 21  # kernels of so many numbers are worth fewer ways through them: twice the tiles


class Winograd(nn.Module):
    """A 3 x 3 convolution with stride 1 that keeps the size, by F(4 x 4, 3 x 3).

    The kernels take four times the memory. In float32 the error is about ten times that of the
    direct form: some 1e-6 of the largest output.

    Args:
        convolution: whose weights are taken; see :meth:`fits`.

    >>> convolution = nn.Conv2d(8, 5, 3, padding=2, dilation=2).double()
    >>> x = torch.randn(2, 8, 13, 7, dtype=torch.float64)
    >>> torch.allclose(Winograd(convolution)(x), convolution(x))
    True
    """

    kernels: Tensor
    bias: Tensor | None

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        weight = convolution.weight.detach().double()
        g = torch.tensor(_G, dtype=torch.float64, device=weight.device)
        kernels = torch.einsum("ia,ocab,jb->ijco", g, weight, g).flatten(0, 1)
        self.dilation = convolution.dilation[0]
        self.register_buffer("kernels", kernels.to(convolution.weight.dtype).contiguous())
        bias = None if convolution.bias is None else convolution.bias.detach()
        self.register_buffer("bias", bias)

    @staticmethod
    def fits(convolution: nn.Conv2d) -> bool:
        """Whether the convolution has the form that this class computes."""
        dilation = convolution.dilation
        return (
            convolution.kernel_size == (3, 3)
            and convolution.stride == (1, 1)
            and convolution.groups == 1
            and dilation[0] == dilation[1]
            and convolution.padding == dilation
            and convolution.padding_mode == "zeros"
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, H, W), channels last in memory."""
        y = convolve(x.permute(0, 2, 3, 1), self.kernels, self.bias, self.dilation)
        return y.permute(0, 3, 1, 2)


def convolve(x: Tensor, kernels: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """Zero-padded convolution of (B, H, W, C) with kernels (36, C, O): (B, H, W, O)."""
    batch, height, width, channels = x.shape
    down, across = -(-height // (4 * dilation)), -(-width // (4 * dilation))
    tiles = _tiles(x, down, across, dilation)
    y = x.new_empty(batch, down, 4, dilation, across, 4, dilation, kernels.shape[2])
    outputs = y.permute(0, 1, 3, 2, 5, 4, 6, 7)
    at_once = _TILES if channels * kernels.shape[2] < _LARGE else 2 * _TILES
    phases = min(dilation, max(1, at_once // (across * dilation)))
    rows = min(down, max(1, at_once // (phases * across * dilation)))
    scratch = [kernels.new_empty(0)] * 4
    starts = product(range(batch), range(0, down, rows), range(0, dilation, phases))
    for picture, row, phase in starts:
        some = picture, slice(row, row + rows), slice(phase, phase + phases)
        sources, targets = (of[some].permute(2, 3, 0, 1, 4, 5, 6) for of in (tiles, outputs))
        scratch = _fitting(scratch, sources, kernels)
        targets.copy_(_of_tiles(sources, kernels, bias, scratch).view(targets.shape))
    y = y.view(batch, 4 * down * dilation, 4 * across * dilation, -1)
    return y[:, :height, :width]


def _tiles(x: Tensor, down: int, across: int, d: int) -> Tensor:
    """The 6 x 6 tiles of (B, H, W, C), of every d-th pixel: (B, down, d, 6, 6, across, d, C)."""
    batch, height, width, channels = x.shape
    below, right = d * (4 * down + 1) - height, d * (4 * across + 1) - width
    framed = F.pad(x, (0, 0, d, right, d, below))
    framed = framed.view(batch, 4 * down + 2, d, 4 * across + 2, d, channels)
    return framed.unfold(1, 6, 4).unfold(3, 6, 4).permute(0, 1, 2, 6, 7, 3, 4, 5)


def _fitting(scratch: list[Tensor], tiles: Tensor, kernels: Tensor) -> list[Tensor]:
    """Four matrices in two pieces of memory, the same as before where (6, 6, ..., C) tiles fit.

    The gathered tiles, what they are turned into, the products, the outputs: each is made of the
    one before, so every second one can lie where the last but one lay.
    """
    if scratch[0].numel() == tiles.numel():
        return scratch
    inputs, outputs = tiles[0, 0].numel(), tiles[0, 0, ..., 0].numel() * kernels.shape[2]
    shapes = (36, inputs), (36, inputs), (36, outputs), (16, outputs)
    pieces = [kernels.new_empty(36 * max(inputs, outputs)) for _ in range(2)]
    return [pieces[i % 2][: rows * n].view(rows, n) for i, (rows, n) in enumerate(shapes)]


def _of_tiles(tiles: Tensor, kernels: Tensor, bias: Tensor | None, scratch: list[Tensor]) -> Tensor:
    """(6, 6, ..., C) tiles -> (4, 4, ..., O), flat."""
    channels, made = kernels.shape[1:]
    b, a = (torch.tensor(rows, dtype=tiles.dtype, device=tiles.device) for rows in (_B, _A))
    gathered, turned, products, y = scratch
    gathered.view(tiles.shape).copy_(tiles)
    torch.mm(torch.kron(b, b), gathered, out=turned)
    torch.bmm(turned.view(36, -1, channels), kernels, out=products.view(36, -1, made))
    torch.mm(torch.kron(a, a), products, out=y)
    return y if bias is None else y.view(-1, made).add_(bias)
