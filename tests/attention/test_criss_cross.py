import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from scenewise.attention import criss_cross
from scenewise.attention.criss_cross import (
    CrissCrossAttention,
    criss_cross_attention,
    decomposed,
)
from tests.attention.contract import (
    EXACT,
    BlockLaw,
    NeverHoldsTheMap,
    PermutesRowsAndColumns,
    StartsAsIdentity,
    WeighsPositions,
    peak_bytes,
    randomise,
)


def dense_weights(query: Tensor, key: Tensor) -> Tensor:
    """Dense attention with the mask "same row or same column": (B, N, N)."""
    height, width = query.shape[2:]
    row = torch.arange(height).repeat_interleave(width)
    column = torch.arange(width).repeat(height)
    cross = (row[:, None] == row) | (column[:, None] == column)
    energy = torch.einsum("bdi,bdj->bij", query.flatten(2), key.flatten(2))
    return energy.masked_fill(~cross, float("-inf")).softmax(-1)


def dense_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    weights = dense_weights(query, key)
    return torch.einsum("bij,bcj->bci", weights, value.flatten(2)).view_as(value)


class TestCrissCrossAttention(
    BlockLaw, StartsAsIdentity, PermutesRowsAndColumns, WeighsPositions, NeverHoldsTheMap
):
    compiler = "aot_eager"

    def build(self, channels: int) -> CrissCrossAttention:
        return CrissCrossAttention(channels, reduction=4)

    def reference(self, block: CrissCrossAttention, x: Tensor) -> Tensor:
        for _ in range(2):
            x = block.gamma * dense_attention(block.query(x), block.key(x), block.value(x)) + x
        return x

    def test_weights_are_the_product_of_the_maps_of_the_rounds(self) -> None:
        block, (x,) = self.ready(), self.sample()
        first = dense_weights(block.query(x), block.key(x))
        y = block.gamma * dense_attention(block.query(x), block.key(x), block.value(x)) + x
        second = dense_weights(block.query(y), block.key(y))
        assert_close(block.weights(x), second @ first, **EXACT)

    def test_given_crosses_are_used_instead_of_those_of_the_input(self) -> None:
        block, (x,) = self.ready(), self.sample()
        crosses = block.crosses(self.sample()[0])
        expected = block.weights(torch.zeros_like(x), at=(1, 2), crosses=crosses)
        assert_close(block.weights(x, at=(1, 2), crosses=crosses), expected)
        assert not torch.allclose(block.weights(x, at=(1, 2)), expected)

    def test_one_round_sees_a_cross_and_two_see_everything(self) -> None:
        (x,) = self.sample()
        once = randomise(CrissCrossAttention(16, 4, recurrence=1).double()).weights(x, at=(2, 3))
        cross = torch.zeros(5, 7, dtype=torch.bool)
        cross[2], cross[:, 3] = True, True
        assert ((once > 0) == cross).all()
        assert (self.ready().weights(x, at=(2, 3)) > 0).all()

    def test_memory_is_linear_in_pixels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(criss_cross, "_ROWS", 4)
        block = randomise(self.build(16))
        peaks = {}
        for height, width in [(24, 24), (48, 48)]:
            x = torch.randn(1, 16, height, width, requires_grad=True)
            peaks[height] = peak_bytes(lambda x=x: block(x).square().sum().backward())
        assert peaks[48] < 4.5 * peaks[24]  # all rows at once: 5.7

    def test_keeps_the_memory_format(self) -> None:
        block, (x,) = self.ready(), self.sample()
        assert block(x).is_contiguous()
        last = x.contiguous(memory_format=torch.channels_last)
        assert block(last).is_contiguous(memory_format=torch.channels_last)
        assert_close(block(last), block(x), **EXACT)


@pytest.mark.parametrize("size", [(1, 7), (5, 1), (1, 1), (3, 4), (11, 3)])
@pytest.mark.parametrize("rows", [1, 4, 100])
@pytest.mark.parametrize("spread", [1.0, 100.0])
def test_function_equals_the_dense_mask(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], rows: int, spread: float
) -> None:
    """For any number of rows at once, and where most weights vanish; gradients too."""
    monkeypatch.setattr(criss_cross, "_ROWS", rows)
    inputs = [torch.randn(2, c, *size, dtype=torch.float64) for c in (3, 3, 4)]
    inputs = [x.mul_(s).requires_grad_() for x, s in zip(inputs, (spread, 1, 1), strict=True)]
    weight = torch.randn(2, 4, *size, dtype=torch.float64)
    result, expected = criss_cross_attention(*inputs), dense_attention(*inputs)
    assert_close(result, expected, **EXACT)
    assert_close(
        torch.autograd.grad((result * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        **EXACT,
    )


def test_decomposes_into_operators_of_pytorch() -> None:
    block = randomise(CrissCrossAttention(16).double()).eval()
    x = torch.randn(2, 16, 5, 7, dtype=torch.float64)
    table = {torch.ops.scenewise.criss_cross.default: decomposed}
    program = torch.export.export(block, (x,)).run_decompositions(table)
    assert "scenewise" not in str(program.graph)
    other = torch.randn(2, 16, 5, 7, dtype=torch.float64)
    assert_close(program.module()(other), block(other), **EXACT)


def test_both_results_of_the_decomposed_operator_are_those_of_the_operator() -> None:
    inputs = [torch.randn(2, c, 5, 7, dtype=torch.float64) for c in (3, 3, 4)]
    inputs.append(torch.tensor([0.7], dtype=torch.float64))
    assert_close(decomposed(*inputs), torch.ops.scenewise.criss_cross(*inputs), **EXACT)


def test_the_decomposed_operator_keeps_half_precision() -> None:
    inputs = [torch.randn(2, c, 5, 7).bfloat16() for c in (3, 3, 4)]
    result = decomposed(*inputs, torch.tensor([0.7]))
    expected = torch.ops.scenewise.criss_cross(*inputs, torch.tensor([0.7]))
    assert_close(result[0], expected[0], rtol=0.05, atol=0.02)  # checks the dtypes too
    assert_close(result[1], expected[1])


def test_the_decomposed_operator_works_on_the_device_of_its_inputs() -> None:
    inputs = [torch.empty(2, c, 5, 7, device="meta") for c in (3, 3, 4)]
    out, log_sum = decomposed(*inputs, torch.empty(1, device="meta"))
    assert out.is_meta
    assert (out.shape, log_sum.shape) == ((2, 4, 5, 7), (2, 5, 7, 1))


def test_uniform_weights_average_the_cross_and_count_the_pixel_once() -> None:
    zeros = torch.zeros(1, 1, 2, 3)
    value = torch.tensor([[[[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]]]])
    out = criss_cross_attention(zeros, zeros, value)
    expected = [[(1 + 2 + 4 + 8) / 4, 23 / 4, 39 / 4], [57 / 4, 58 / 4, 60 / 4]]
    assert_close(out, torch.tensor([[expected]]))


def test_large_energies_stay_finite() -> None:
    query = torch.full((1, 1, 3, 5), 1e3, requires_grad=True)
    out = criss_cross_attention(query, query, query)
    assert_close(out, query)
    out.sum().backward()
    assert query.grad is not None
    assert query.grad.isfinite().all()


def test_invalid_arguments_raise() -> None:
    x = torch.zeros(1, 2, 3, 4)
    shapes = r"\(2, 3, 4\), key \(1, 2, 3, 4\), value \(5, 2, 3, 4\)$"
    with pytest.raises(ValueError, match="expected.*got query " + shapes):
        criss_cross_attention(x[0], x, x.expand(5, -1, -1, -1))
    with pytest.raises(ValueError, match="query and key differ"):
        criss_cross_attention(x, x[:, :1], x)
    with pytest.raises(ValueError, match="height or width"):
        criss_cross_attention(x, x, x[..., :2])
    with pytest.raises(ValueError, match="recurrence"):
        CrissCrossAttention(16, recurrence=0)
    with pytest.raises(ValueError, match="reduced"):
        CrissCrossAttention(4)
    with pytest.raises(ValueError, match="outside"):
        CrissCrossAttention(8).weights(torch.zeros(1, 8, 3, 4), at=(3, 0))
