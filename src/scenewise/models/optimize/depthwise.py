"""Depthwise convolutions with a backward pass that is fast on CPUs, for training.

PyTorch's own backward pass is slow for some of them: with dilation or a stride the gradient of the
input takes up to 30 times the forward pass, and in bfloat16 that of the weight up to 40 times.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def depthwise_conv(
    x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Tensor:
    """``F.conv2d`` of each channel alone, with first derivatives only.

    The gradient of the input is a depthwise convolution too, of the output's gradient with zeros
    between its pixels for a stride, and the kernel turned by 180 degrees. That of the weight is
    summed in float32 or float64.

    Shape:
        x (B, C, H, W), weight (C, 1, k, k) -> (B, C, h, w).

    >>> x, weight = torch.randn(2, 3, 9, 7), torch.randn(3, 1, 3, 3)
    >>> expected = F.conv2d(x, weight, stride=2, padding=1, groups=3)
    >>> torch.equal(depthwise_conv(x, weight, stride=2, padding=1), expected)
    True
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight = x.to(dtype), weight.to(dtype)
    y: Tensor = _DepthwiseConv.apply(x, weight, stride, padding, dilation)
    return y


def fast_depthwise(model: nn.Module) -> int:
    """Give the depthwise convolutions of ``model`` the fast backward pass; return how many.

    Names, weights and outputs do not change. Elsewhere than on a CPU, without gradients and under
    ``torch.compile`` they run as before.

    >>> fast_depthwise(nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 1)))
    1
    """
    found = [m for m in model.modules() if type(m) in _FAST and _fits(m)]
    for convolution in found:
        convolution.__class__ = _FAST[type(convolution)]
    return len(found)


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.shape = stride, padding, dilation
        return F.conv2d(x, weight, None, stride, padding, dilation, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, *_ = ctx.needs_input_grad
        of_x = _input_gradient(gradient, x, weight, *ctx.shape) if needs_x else None
        of_weight = _weight_gradient(gradient, x, weight, *ctx.shape) if needs_weight else None
        return of_x, of_weight, None, None, None


def _input_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int
) -> Tensor:
    reach = dilation * (weight.shape[-1] - 1)
    if stride > 1:  # zeros between the pixels, as large as the output at stride 1
        height, width = (n + 2 * padding - reach for n in x.shape[2:])
        spread = (
            torch.zeros_like(x[:, :, :1, :1])
            .expand(-1, -1, height, width)
            .clone(memory_format=torch.channels_last)
        )
        spread[:, :, ::stride, ::stride] = gradient
        gradient = spread
    turned = weight.flip(2, 3)
    return F.conv2d(gradient, turned, None, 1, reach - padding, dilation, x.shape[1])


def _weight_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int
) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    sides = [stride] * 2, [padding] * 2, [dilation] * 2
    result: Tensor = torch.ops.aten.convolution_backward(
        gradient.to(dtype),
        x.to(dtype),
        weight.to(dtype),
        None,
        *sides,
        False,
        [0, 0],
        x.shape[1],
        [False, True, False],
    )[1]
    return result.to(weight.dtype)


class _Fast:
    """Mixed into a convolution class: the fast backward pass where it applies."""

    def forward(self: Any, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            y: Tensor = super().forward(x)  # type: ignore[misc]
            return y
        if isinstance(self, Conv2dSame):
            x = pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
        padding = 0 if isinstance(self, Conv2dSame) else self.padding[0]
        y = depthwise_conv(x, self.weight, self.stride[0], padding, self.dilation[0])
        return y if self.bias is None else y + self.bias[:, None, None]


class _FastConv2d(_Fast, nn.Conv2d):
    pass


class _FastConv2dSame(_Fast, Conv2dSame):
    pass


_FAST: dict[type[nn.Module], Any] = {nn.Conv2d: _FastConv2d, Conv2dSame: _FastConv2dSame}


def _fits(convolution: Any) -> bool:
    """Depthwise, square and zero-padded by less than its reach."""
    size, reach = (
        convolution.kernel_size,
        convolution.dilation[0] * (convolution.kernel_size[0] - 1),
    )
    sides = (size, convolution.stride, convolution.dilation)
    padding = convolution.padding
    return (
        convolution.groups == convolution.in_channels == convolution.out_channels > 1
        and size[0] > 1
        and all(a == b for a, b in sides)
        and not isinstance(padding, str)
        and padding[0] == padding[1] <= reach
        and convolution.padding_mode == "zeros"
    )
