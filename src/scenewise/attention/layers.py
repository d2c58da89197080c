"""What the blocks share: convolution with norm and activation, and checks of arguments."""

from collections.abc import Mapping
from typing import TypeVar

import torch.fx
from torch import Tensor, nn

_Block = TypeVar("_Block", bound=nn.Module)


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


def load_public(block: _Block, state: Mapping[str, Tensor]) -> _Block:
    """``block`` with the trained weights of the public code's module.

    Args:
        block: as wide as that module, see :func:`public_widths`.
        state: its ``state_dict()``: ``query_conv``, ``key_conv``, ``value_conv`` and ``gamma``, as
            far as the block has them. mmcv's ``gamma.scale``, without an axis, is taken too.

    Raises:
        ValueError: tensors are missing, unknown or of other shapes.

    >>> load_public(nn.ParameterDict({"gamma": torch.zeros(1)}), {"gamma": torch.ones(1)})["gamma"]
    Parameter containing:
    tensor([1.], requires_grad=True)
    """
    renamed = {}
    for key, tensor in state.items():
        name = key.removesuffix(".scale").replace("_conv.", ".", 1)
        renamed[name] = tensor.reshape(1) if tensor.ndim == 0 else tensor
    own = {name: tuple(value.shape) for name, value in block.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in renamed.items()}
    wrong = sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name))
    if wrong:
        shapes = given.get(wrong[0]), own.get(wrong[0])
        raise ValueError(f"the state has {wrong[0]} of shape {shapes[0]}, the block {shapes[1]}")
    block.load_state_dict(renamed)
    return block


def public_widths(state: Mapping[str, Tensor]) -> tuple[int, int]:
    """Channels and reduction of a public attention module with queries, keys and values.

    >>> public_widths({"query_conv.weight": torch.zeros(2, 16, 1, 1)})
    (16, 8)
    """
    query = state.get("query_conv.weight")
    if query is None or query.ndim != 4 or 0 in query.shape:
        raise ValueError("the state has no query_conv.weight; give the attention's state alone")
    return query.shape[1], query.shape[1] // query.shape[0]


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
