"""Pooling contexts against plain loops over bins, taps and pixels, in float64."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from scenewise.models.pooling import ASPP, PyramidPooling
from tests.attention.contract import randomise

EXACT = {"rtol": 1e-9, "atol": 1e-10}


def bins(x: Tensor, size: int) -> Tensor:
    """Means over size x size bins; bin i runs from floor(i H / s) to ceil((i + 1) H / s)."""
    height, width = x.shape[2:]
    out = x.new_empty(*x.shape[:2], size, size)
    for i in range(size):
        for j in range(size):
            rows = slice(i * height // size, math.ceil((i + 1) * height / size))
            columns = slice(j * width // size, math.ceil((j + 1) * width / size))
            out[:, :, i, j] = x[:, :, rows, columns].mean((2, 3))
    return out


def place(index: int, small: int, large: int, align_corners: bool) -> tuple[int, int, float]:
    """The two source pixels around an output pixel, and its distance from the first."""
    if align_corners:
        where = index * (small - 1) / (large - 1)
    else:
        where = max(0.0, (index + 0.5) * small / large - 0.5)
    low = min(int(where), small - 1)
    return low, min(low + 1, small - 1), where - low


def upsample(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    out = x.new_empty(*x.shape[:2], *size)
    for i in range(size[0]):
        top, bottom, down = place(i, x.shape[2], size[0], align_corners)
        for j in range(size[1]):
            left, right, along = place(j, x.shape[3], size[1], align_corners)
            above = x[:, :, top, left] * (1 - along) + x[:, :, top, right] * along
            below = x[:, :, bottom, left] * (1 - along) + x[:, :, bottom, right] * along
            out[:, :, i, j] = above * (1 - down) + below * down
    return out


def convolve(x: Tensor, layers: nn.Module, dilation: int = 1, slope: float = 0.0) -> Tensor:
    """Convolution tap by tap over a zero border, norm with its running statistics, (leaky) ReLU."""
    conv, norm = [m for m in layers.modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
    reach = conv.kernel_size[0] // 2
    height, width = x.shape[2:]
    out = x.new_zeros(x.shape[0], conv.out_channels, height, width)
    for i in range(height):
        for j in range(width):
            for a in range(-reach, reach + 1):
                for b in range(-reach, reach + 1):
                    y, z = i + a * dilation, j + b * dilation
                    if 0 <= y < height and 0 <= z < width:
                        tap = conv.weight[:, :, a + reach, b + reach]
                        out[:, :, i, j] += x[:, :, y, z] @ tap.T
    out = (out - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + 1e-5) ** 0.5
    out = out * norm.weight[:, None, None] + norm.bias[:, None, None]
    return out.clamp_min(0) + slope * out.clamp_max(0)


@pytest.mark.parametrize("align_corners", [True, False])
def test_pyramid_pooling_equals_loops_over_bins(align_corners: bool) -> None:
    context = PyramidPooling(6, width=4, bins=(1, 2, 3), align_corners=align_corners)
    randomise(context.double()).eval()
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    parts = [x]
    for size, branch in zip((1, 2, 3), context.branches, strict=True):
        parts.append(upsample(convolve(bins(x, size), branch), (5, 7), align_corners))
    assert_close(context(x), torch.cat(parts, 1), **EXACT)


def test_pyramid_pooling_has_the_bins_of_the_paper() -> None:
    context = PyramidPooling(256)
    assert [branch[0].output_size for branch in context.branches] == [1, 2, 3, 6]
    assert context.out_channels == 512
    assert context(torch.randn(2, 256, 3, 4)).shape == (2, 512, 3, 4)  # fewer pixels than bins


@pytest.mark.parametrize("pool_first", [True, False])
@pytest.mark.parametrize(("kernel", "slope"), [(1, 0.0), (3, 0.01)])
def test_aspp_equals_loops_over_taps(pool_first: bool, kernel: int, slope: float) -> None:
    context = ASPP(
        6,
        4,
        rates=(1, 2, 3),
        out_channels=5,
        kernel=kernel,
        pool_first=pool_first,
        slope=slope,
    )
    randomise(context.double()).eval()
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    parts = [
        convolve(x, branch, dilation, slope)
        for branch, dilation in zip(context.branches, (1, 1, 2, 3), strict=True)
    ]
    mean = convolve(x.mean((2, 3), keepdim=True), context.pool, slope=slope).expand(2, 4, 5, 7)
    joined = torch.cat([mean, *parts] if pool_first else [*parts, mean], 1)
    assert_close(context(x), convolve(joined, context.project, slope=slope), **EXACT)


def test_far_taps_read_the_zero_padding() -> None:
    """At rates beyond the feature map only the centre tap counts: a 3x3 branch is a 1x1 branch."""
    context = randomise(ASPP(6, 4, rates=(7,)).double()).eval()
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    conv, norm, rectify = context.branches[1]
    centre = nn.functional.conv2d(x, conv.weight[:, :, 1:2, 1:2])
    assert_close(context.branches[1](x), rectify(norm(centre)), **EXACT)


@pytest.mark.parametrize("context", [PyramidPooling(8, 4), ASPP(8, 4)])
def test_gradients_are_finite(context: nn.Module) -> None:
    x = torch.randn(2, 8, 5, 7, requires_grad=True)
    context(x).square().sum().backward()
    assert x.grad is not None
    assert all(p.grad is not None and p.grad.isfinite().all() for p in context.parameters())
