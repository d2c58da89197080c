"""What the blocks share: convolution with norm and activation, and checks of arguments."""

import torch.fx
from torch import Tensor, nn


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    *,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = False,
    slope: float | None = 0.0,
) -> nn.Sequential:
    """A convolution that keeps the size, batch norm, and a (leaky) ReLU.

    Args:
        inputs: input channels.
        outputs: output channels.
        kernel: kernel size, odd.
        dilation: dilation of the kernel.
        groups: of the convolution; ``inputs`` for a depthwise one.
        bias: whether the convolution has a bias.
        slope: negative slope: 0 for ReLU, 0.01 in OCNet and CCNet, None for no activation.

    >>> [type(layer).__name__ for layer in conv_norm(8, 4, 3, slope=0.01)]
    ['Conv2d', 'BatchNorm2d', 'LeakyReLU']
    """
    padding = dilation * (kernel // 2)  # keeps H and W for an odd kernel
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, 1, padding, dilation, groups, bias),
        nn.BatchNorm2d(outputs),
    ]
    if slope is not None:
        layers.append(nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def check_batch(*inputs: Tensor, axes: str = "B, C, H, W") -> None:
    """Raise a ValueError unless each of ``inputs`` has these axes.

    Without it, some blocks would take a single sample's channels for a batch.

    >>> check_batch(torch.zeros(16, 5, 7))
    Traceback (most recent call last):
    ValueError: expected (B, C, H, W), got (16, 5, 7); of one sample (C, H, W) give x[None]
    """
    for x in inputs:
        _check_axes(x, axes)


@torch.fx.wrap  # a leaf in symbolic traces, where the number of axes is unknown
def _check_axes(x: Tensor, axes: str) -> None:
    if x.ndim != axes.count(",") + 1:
        raise ValueError(
            f"expected ({axes}), got {tuple(x.shape)}; of one sample ({axes.partition(', ')[2]}) "
            "give x[None]"
        )


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, got '{value}'")


def reduced(channels: int, reduction: int) -> int:
    """``channels`` divided by ``reduction``; a ValueError if none would remain.

    >>> reduced(512, 8)
    64
    """
    if channels < reduction:
        raise ValueError(f"{channels} channels cannot be reduced by {reduction}")
    return channels // reduction
