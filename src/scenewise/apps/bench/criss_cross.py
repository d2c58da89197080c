"""Benchmark of criss-cross attention: against the usual implementation."""

from collections.abc import Callable

import torch
from torch import Tensor

from scenewise.apps.bench.measure import Row, compare, forward_and_backward, forward_only
from scenewise.attention import criss_cross_attention

_CHANNELS, _INNER, _RECURRENCE = 512, 64, 2
_SIZES = ((97, 97), (128, 256))


def _plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Two energy tensors, concatenated, one softmax, two products: as most ports do."""
    height = query.shape[2]
    hidden = torch.zeros(height, height).fill_diagonal_(-torch.inf)  # the pixel itself, once
    vertical = torch.einsum("bchw,bciw->bhwi", query, key) + hidden[:, None]  # (B, H, W, H)
    horizontal = torch.einsum("bchw,bchj->bhwj", query, key)  # (B, H, W, W)
    weights = torch.softmax(torch.cat([vertical, horizontal], dim=3), dim=3)
    column, row = weights[..., :height], weights[..., height:]
    return torch.einsum("bhwi,bciw->bchw", column, value) + torch.einsum(
        "bhwj,bchj->bchw", row, value
    )


def rows(repeats: int = 5) -> list[Row]:
    """Two recurrences on the same queries and keys, forward and with backward.

    Our implementation gets channels-last inputs, as its convolutions return them; the plain one the
    layout that suits it.
    """
    table = []
    for height, width in _SIZES:
        inputs = [torch.randn(1, c, height, width) for c in (_INNER, _INNER, _CHANNELS)]
        inputs[0] *= _INNER**-0.5
        last = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
        for name, runner in (("forward", forward_only), ("+ backward", forward_and_backward)):
            variants = {
                "plain": runner(_twice(_plain), inputs),
                "scenewise": runner(_twice(criss_cross_attention), last),
            }
            table += compare(f"{height} x {width}, C {_CHANNELS}, R 2, {name}", variants, repeats)
    return table


def _twice(attention: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def run(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        for _ in range(_RECURRENCE):
            value = attention(query, key, value)
        return value

    return run
