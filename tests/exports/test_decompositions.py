"""Decompositions of operators against the operators."""

import operator

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from scenewise.attention import position_attention
from scenewise.exports import decompositions
from tests.attention.contract import peak_bytes


@pytest.mark.parametrize(
    "decomposed", [decompositions._fused_position, decompositions._padded_position]
)
@pytest.mark.parametrize("channels", [(3, 8), (8, 3), (5, 5)])
def test_position(decomposed, channels: tuple[int, int]) -> None:
    depth, width = channels
    query, key = torch.randn(2, 7, depth).double(), torch.randn(2, 11, depth).double()
    value = torch.randn(2, 11, width).double()
    out, log_sum = decomposed(query, key, value, 0.7)
    assert_close(out, position_attention(query, key, value, scale=0.7))
    assert log_sum.shape == (2, 7)


@torch.no_grad()
def test_the_padded_form_never_holds_all_pairs() -> None:
    """As the blocks call it: transposed views of feature maps, not contiguous."""
    query, key, value = (torch.randn(1, c, 3000).transpose(1, 2) for c in (4, 4, 8))
    peak = peak_bytes(lambda: decompositions._padded_position(query, key, value, 1.0))
    assert peak < 0.2 * 4 * 3000**2


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 3), (6, 6), (13, 17), (20, 5)])
def test_adaptive_average(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 13, 17).double()
    assert_close(decompositions._adaptive_average(x, list(size)), F.adaptive_avg_pool2d(x, size))


def test_sizes_without_modulo() -> None:
    class Padded(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.pad(x, (0, 8 - x.shape[1] % 8))

    free = ({1: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(Padded(), (torch.ones(2, 13),), dynamic_shapes=free)
    program = decompositions.without_modulo(program)
    assert operator.mod not in [node.target for node in program.graph.nodes]
    for length in (7, 8, 9, 16, 23):
        assert program.module()(torch.ones(2, length)).shape[1] == length // 8 * 8 + 8
