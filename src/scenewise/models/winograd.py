"""3 x 3 convolutions with a quarter of the multiplications, for inference on CPUs.

A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016: F(4 x 4, 3 x
3) makes 16 outputs of a channel from 36 products instead of 144. Here the products of all channels
and tiles are 36 matrix products, which PyTorch does at full speed. A dilated convolution is a plain
one on each phase of the picture.
"""

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
_TILES = 128  # at once: what they need stays small, and products stay large


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
        phases = _phases(x.permute(0, 2, 3, 1), self.dilation)
        y = _joined(convolve(phases, self.kernels), self.dilation, x.shape)
        if self.bias is not None:
            y += self.bias
        return y.permute(0, 3, 1, 2)


def convolve(x: Tensor, kernels: Tensor) -> Tensor:
    """Zero-padded convolution of (B, H, W, C) with kernels (36, C, O): (B, H', W', O).

    H' and W' are H and W in multiples of 4; what lies beyond H and W is of no use.
    """
    batch, height, width = x.shape[:3]
    down, across = -(-height // 4), -(-width // 4)
    framed = F.pad(x, (0, 0, 1, 4 * across - width + 1, 1, 4 * down - height + 1))
    y = x.new_empty(batch, 4 * down, 4 * across, kernels.shape[2])
    tiles = framed.unfold(1, 6, 4).unfold(2, 6, 4)  # (B, down, across, C, 6, 6)
    pictures = max(1, _TILES // (down * across))
    rows = max(1, _TILES // (pictures * across))
    for first in range(0, batch, pictures):
        for top in range(0, down, rows):
            part = tiles[first : first + pictures, top : top + rows]
            y[first : first + pictures, 4 * top : 4 * (top + rows)] = _of_tiles(part, kernels)
    return y


def _of_tiles(tiles: Tensor, kernels: Tensor) -> Tensor:
    """(b, n, m, C, 6, 6) tiles -> (b, 4 n, 4 m, O)."""
    batch, down, across, channels = tiles.shape[:4]
    b, a = (torch.tensor(rows, dtype=tiles.dtype, device=tiles.device) for rows in (_B, _A))
    turned = torch.kron(b, b) @ tiles.permute(4, 5, 0, 1, 2, 3).reshape(36, -1)
    products = torch.bmm(turned.view(36, -1, channels), kernels)
    del turned
    y = torch.kron(a, a) @ products.view(36, -1)
    y = y.view(4, 4, batch, down, across, -1).permute(2, 3, 0, 4, 1, 5)
    return y.reshape(batch, 4 * down, 4 * across, -1)


def _phases(x: Tensor, dilation: int) -> Tensor:
    """(B, H, W, C) -> (B d^2, H / d, W / d, C): every d-th pixel, from each of the d^2 starts."""
    if dilation == 1:
        return x
    batch, height, width, channels = x.shape
    down, across = -(-height // dilation), -(-width // dilation)
    x = F.pad(x, (0, 0, 0, across * dilation - width, 0, down * dilation - height))
    x = x.view(batch, down, dilation, across, dilation, channels)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, down, across, channels)


def _joined(y: Tensor, dilation: int, shape: torch.Size) -> Tensor:
    """Undo :func:`_phases` and cut to the height and width of ``shape`` (B, C, H, W)."""
    batch, _, height, width = shape
    if dilation > 1:
        down, across = -(-height // dilation), -(-width // dilation)
        y = y[:, :down, :across].reshape(batch, dilation, dilation, down, across, -1)
        y = y.permute(0, 3, 1, 4, 2, 5).reshape(batch, down * dilation, across * dilation, -1)
    return y[:, :height, :width]
