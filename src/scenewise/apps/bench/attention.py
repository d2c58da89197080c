"""Benchmark of position attention: against the dense formula and the machine's limit."""

import torch
from torch import Tensor

from scenewise.apps.bench.measure import (
    Row,
    Run,
    compare,
    forward_and_backward,
    forward_only,
    products,
)
from scenewise.attention import position_attention
from scenewise.attention.kernels import tiled

CHANNELS, INNER = 512, 64
_PIXELS = (1024, 4096, 9216, 16384)
_FULL = 32768  # 1024 x 2048 at stride 8; the dense formula would need 13 GB
_SPREAD_PIXELS, _SPREAD = 4096, 20.0  # energies far apart


def dense(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(QK^T)V with the attention map in memory, as every port of DANet computes it."""
    return torch.softmax(query @ key.transpose(1, 2), dim=-1) @ value


def rows(repeats: int = 5) -> list[Row]:
    """Forward, and forward + backward, at several numbers of pixels."""
    table = []
    for pixels in _PIXELS:
        table += _against_dense(pixels, 1.0, repeats)
    if _SPREAD_PIXELS:
        table += _against_dense(_SPREAD_PIXELS, _SPREAD, 1)
    if _FULL:
        table += _against_products(_FULL, min(repeats, 2))
    return table


def draw(pixels: int, spread: float = 1.0) -> list[Tensor]:
    """Query, key and value (1, N, D or C) with energies of the standard deviation ``spread``."""
    inputs = [torch.randn(1, c, pixels).transpose(1, 2) for c in (INNER, INNER, CHANNELS)]
    inputs[0] *= spread * INNER**-0.5
    return inputs


def _against_dense(pixels: int, spread: float, repeats: int) -> list[Row]:
    inputs, table = draw(pixels, spread), []
    suffix = "" if spread == 1 else f", energies spread by {spread:g}"
    for name, runner in (("forward", forward_only), ("+ backward", forward_and_backward)):
        work = f"N = {pixels}, D {INNER}, C {CHANNELS}{suffix}, {name}"
        variants = {"dense": runner(dense, inputs), "tiles": runner(position_attention, inputs)}
        table += compare(work, variants, repeats)
    return table


def _against_products(pixels: int, repeats: int) -> list[Row]:
    """Against square matrix products of as many operations, and those of the tiles alone."""
    inputs, table = draw(pixels), []
    backward = 3 * INNER + 2 * CHANNELS  # energies again, d_query, d_key; d_weights, d_value
    for name, runner, each in (
        ("forward", forward_only, INNER + CHANNELS),
        ("+ backward", forward_and_backward, INNER + CHANNELS + backward),
    ):
        variants = {
            "square products": products(2 * pixels**2 * each),
            "the tiles' products": _tile_products(pixels, backward=each > INNER + CHANNELS),
            "tiles": runner(position_attention, inputs),
        }
        table += compare(f"N = {pixels}, D {INNER}, C {CHANNELS}, {name}", variants, repeats)
    return table


def _tile_products(pixels: int, *, backward: bool) -> Run:
    """The matrix products of the tiles alone, without the softmax."""
    rows, keys = tiled._TILE_ROWS, tiled._TILE_KEYS
    query, out = torch.randn(rows, INNER), torch.randn(rows, CHANNELS)
    key, value = torch.randn(keys, INNER), torch.randn(keys, CHANNELS)
    energy, weights = torch.empty(rows, keys), torch.rand(rows, keys)

    def run() -> object:
        for _ in range(pixels**2 // (rows * keys)):
            torch.mm(query, key.T, out=energy)
            torch.mm(weights, value, out=out)
            if backward:
                torch.mm(query, key.T, out=energy)
                torch.mm(weights.T, out, out=value)
                torch.mm(out, value.T, out=energy)
                torch.mm(weights, key, out=query)
                torch.mm(weights.T, query, out=key)
            for x in (query, out, key, value):
                x.fill_(0.5)  # else the products overflow
        return out

    return run
