"""Convolution, batch norm, activation: the bricks around attention."""

from torch import nn


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    *,
    dilation: int = 1,
    bias: bool = False,
    slope: float | None = 0.0,
) -> nn.Sequential:
    """A convolution that keeps the size, batch norm, and a (leaky) ReLU.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: odd side of the kernel.
        dilation: of the kernel.
        bias: of the convolution.
        slope: for negative numbers; 0 is ReLU, 0.01 what OCNet and CCNet use, None no activation.

    >>> [type(layer).__name__ for layer in conv_norm(8, 4, 3, slope=0.01)]
    ['Conv2d', 'BatchNorm2d', 'LeakyReLU']
    """
    padding = dilation * (kernel // 2)
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=bias),
        nn.BatchNorm2d(outputs),
    ]
    if slope is not None:
        layers.append(nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
