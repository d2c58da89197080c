"""3 x 3 convolutions with a quarter of the multiplications, for inference on CPUs.

A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016: F(4 x 4, 3 x
3) computes 16 outputs of a channel from 36 products instead of 144. Here the products of all
channels and tiles are 36 matrix products, which PyTorch runs at full speed. A dilated convolution
is a plain one on each phase of the image (every d-th pixel).
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
_TILES = 128  # at once: small enough for the cache, large enough for fast matrix products
_LARGE = 1 << 21  # larger kernels are read from memory for each batch: twice the tiles


class Winograd(nn.Module):
    """A 3 x 3 convolution with stride 1 that keeps the size, by F(4 x 4, 3 x 3).

    The kernels take four times the memory. In float32 the error is about ten times that of the
    direct algorithm: about 1e-6 of the largest output.

    Args:
        convolution: with the weights; :meth:`fits` must hold.

    >>> convolution = nn.Conv2d(8, 5, 3, padding=2, dilation=2).double()
    >>> x = torch.randn(2, 8, 13, 7, dtype=torch.float64)
    >>> torch.allclose(Winograd(convolution)(x), convolution(x))
    True
    """

    kernels: Tensor
    bias: Tensor | None

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        weight = convolution.weight.detach().double().permute(2, 3, 1, 0)  # (3, 3, C, O)
        g = torch.tensor(_G, dtype=torch.float64, device=weight.device)  # (6, 3)
        flat = torch.kron(g, g) @ weight.flatten(2).flatten(0, 1)  # (36, 9) (9, C * O): G w G'
        kernels = flat.view(36, *weight.shape[2:])  # (36, C, O)
        self.dilation = convolution.dilation[0]
        self.register_buffer("kernels", kernels.to(convolution.weight.dtype).contiguous())
        bias = None if convolution.bias is None else convolution.bias.detach()
        self.register_buffer("bias", bias)

    @staticmethod
    def fits(convolution: nn.Conv2d) -> bool:
        """Whether this class can compute the convolution."""
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
        y = _convolve(x.permute(0, 2, 3, 1), self.kernels, self.bias, self.dilation)
        return y.permute(0, 3, 1, 2)  # (B, O, H, W)


def _convolve(x: Tensor, kernels: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """Zero-padded convolution of (B, H, W, C) with kernels (36, C, O): (B, H, W, O)."""
    batch, height, width, channels = x.shape
    down, across = -(-height // (4 * dilation)), -(-width // (4 * dilation))  # tiles, rounded up
    tiles = _tiles(x, down, across, dilation)
    y = x.new_empty(batch, down, 4, dilation, across, 4, dilation, kernels.shape[2])  # NHWC
    outputs = y.permute(0, 1, 3, 2, 5, 4, 6, 7)  # (B, down, d, 4, 4, across, d, O)
    at_once = _TILES if channels * kernels.shape[2] < _LARGE else 2 * _TILES
    phases = min(dilation, max(1, at_once // (across * dilation)))  # rows of one phase
    rows = min(down, max(1, at_once // (phases * across * dilation)))
    scratch = [kernels.new_empty(0)] * 4
    starts = product(range(batch), range(0, down, rows), range(0, dilation, phases))
    for image, row, phase in starts:
        part = image, slice(row, row + rows), slice(phase, phase + phases)
        sources, targets = (  # (6 or 4, 6 or 4, rows, phases, across, d, C or O)
            array[part].permute(2, 3, 0, 1, 4, 5, 6) for array in (tiles, outputs)
        )
        scratch = _allocate(scratch, sources, kernels)
        targets.copy_(_transform(sources, kernels, bias, scratch).view(targets.shape))
    y = y.view(batch, 4 * down * dilation, 4 * across * dilation, -1)
    return y[:, :height, :width]  # without the last tiles' excess


def _tiles(x: Tensor, down: int, across: int, d: int) -> Tensor:
    """The 6 x 6 tiles of (B, H, W, C), of every d-th pixel: (B, down, d, 6, 6, across, d, C)."""
    batch, height, width, channels = x.shape
    below, right = d * (4 * down + 1) - height, d * (4 * across + 1) - width
    padded = F.pad(x, (0, 0, d, right, d, below))
    padded = padded.view(batch, 4 * down + 2, d, 4 * across + 2, d, channels)  # phases apart
    windows = padded.unfold(1, 6, 4).unfold(3, 6, 4)  # (B, down, d, across, d, C, 6, 6)
    return windows.permute(0, 1, 2, 6, 7, 3, 4, 5)


def _allocate(scratch: list[Tensor], tiles: Tensor, kernels: Tensor) -> list[Tensor]:
    """Scratch matrices for (6, 6, ..., C) tiles; the given ones are reused if their size matches.

    The gathered tiles, the transformed tiles, the products and the outputs: each is computed from
    the one before, so the first and third, and the second and fourth, share memory.
    """
    if scratch[0].numel() == tiles.numel():
        return scratch
    inputs, outputs = tiles[0, 0].numel(), tiles[0, 0, ..., 0].numel() * kernels.shape[2]
    shapes = (36, inputs), (36, inputs), (36, outputs), (16, outputs)  # 6 x 6 or 4 x 4 rows
    pieces = [kernels.new_empty(36 * max(inputs, outputs)) for _ in range(2)]
    return [pieces[i % 2][: rows * n].view(rows, n) for i, (rows, n) in enumerate(shapes)]


def _transform(
    tiles: Tensor, kernels: Tensor, bias: Tensor | None, scratch: list[Tensor]
) -> Tensor:
    """(6, 6, ..., C) tiles -> (4, 4, ..., O), flat."""
    channels, outputs = kernels.shape[1:]
    b, a = (torch.tensor(rows, dtype=tiles.dtype, device=tiles.device) for rows in (_B, _A))
    gathered, transformed, products, y = scratch
    gathered.view(tiles.shape).copy_(tiles)
    torch.mm(torch.kron(b, b), gathered, out=transformed)  # B' tile B on flattened tiles
    torch.bmm(transformed.view(36, -1, channels), kernels, out=products.view(36, -1, outputs))
    torch.mm(torch.kron(a, a), products, out=y)  # A' (...) A
    return y if bias is None else y.view(-1, outputs).add_(bias)
