from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from scenewise.attention.ocnet import ASPOC, BaseOC, ObjectAttention, PyramidOC
from tests.attention.contract import (
    EXACT,
    BlockLaw,
    NeverHoldsTheMap,
    PermutesPositions,
    WeighsPositions,
    dropouts,
    randomise,
    slopes,
)


def dense(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled attention on maps (B, D, h, w), dense."""
    energy = torch.einsum("bdhw,bdkl->bhwkl", query, key) / query.shape[1] ** 0.5
    weights = energy.flatten(3).softmax(-1)
    return torch.einsum("bhwn,bcn->bchw", weights, value.flatten(2))


def in_tiles(block: ObjectAttention, x: Tensor, cuts: list[list[int]]) -> Tensor:
    """The attention with tiles cut at the given rows and columns."""
    q, k, v = block.query(x), block.query(x), block.value(x)
    out = torch.empty_like(v)
    for top, bottom in pairwise(cuts[0]):
        for left, right in pairwise(cuts[1]):
            part = (..., slice(top, bottom), slice(left, right))
            out[part] = dense(q[part], k[part], v[part])
    return block.out(out)


class TestBaseOC(BlockLaw, PermutesPositions, WeighsPositions, NeverHoldsTheMap):
    def build(self, channels: int) -> BaseOC:
        return BaseOC(channels)

    def reference(self, block: BaseOC, x: Tensor) -> Tensor:
        part = block.attention
        context = part.out(dense(part.query(x), part.query(x), part.value(x)))
        return block.mix(torch.cat([context, x], dim=1))


class TestPyramidOC(BlockLaw, WeighsPositions, NeverHoldsTheMap):
    def build(self, channels: int) -> PyramidOC:
        return PyramidOC(channels, sizes=(1, 3))

    def reference(self, block: PyramidOC, x: Tensor) -> Tensor:
        cuts = [[[0, 5], [0, 7]], [[0, 1, 2, 5], [0, 2, 4, 7]]]
        contexts = [in_tiles(a, x, c) for a, c in zip(block.attentions, cuts, strict=True)]
        return block.mix(torch.cat([block.widen(x), *contexts], dim=1))

    def test_weights_are_zero_outside_the_tile(self) -> None:
        block, (x,) = self.ready(), self.sample()
        assert isinstance(block, PyramidOC)
        third: Any = block.attentions[1]
        live = torch.zeros(5, 7, dtype=torch.bool)
        live[2:5, 2:4] = True
        assert ((third.weights(x, at=(3, 2)) > 0) == live).all()


class TestASPOC(BlockLaw, NeverHoldsTheMap):
    large_channels = 8

    def build(self, channels: int) -> ASPOC:
        return ASPOC(channels, dilations=(1, 2, 3))

    def reference(self, block: ASPOC, x: Tensor) -> Tensor:
        part, reduced = block.attention, F.max_pool2d(block.reduce(x), 2)
        key = part.query if part.key is None else part.key
        low_res = part.out(dense(part.query(reduced), key(reduced), part.value(reduced)))
        context = block.refine(
            F.interpolate(low_res, x.shape[2:], mode="bilinear", align_corners=True)
        )
        return block.mix(torch.cat([context, *(branch(x) for branch in block.branches)], dim=1))

    def test_weights_have_the_pooled_size(self) -> None:
        block, (x,) = self.ready(), self.sample()
        assert isinstance(block, ASPOC)
        one = block.weights(x, at=(4, 6))  # the last row and column are not pooled
        assert one.shape == (2, 2, 3)
        assert_close(one.flatten(1), block.weights(x)[:, 1 * 3 + 2], **EXACT)
        assert_close(one.sum((1, 2)), torch.ones(2, dtype=torch.float64), **EXACT)


def test_the_second_release_equals_its_reference() -> None:
    x = torch.randn(2, 16, 5, 7, dtype=torch.float64)
    base = randomise(BaseOC(16, variant="openseg").double()).eval()
    part = base.attention
    assert part.key is not None
    context = part.out(dense(part.query(x), part.key(x), part.value(x)))
    assert_close(base(x), base.mix(torch.cat([context, x], dim=1)), **EXACT)
    asp = randomise(ASPOC(16, variant="openseg").double()).eval()
    assert_close(asp(x), TestASPOC().reference(asp, x), **EXACT)


@pytest.mark.parametrize("variant", ["ocnet", "openseg"])
def test_weights_are_those_of_the_dense_map(variant: Any) -> None:
    block = randomise(BaseOC(16, variant=variant).double()).eval()
    x, part = torch.randn(2, 16, 5, 7, dtype=torch.float64), block.attention
    query, key = (m(x).flatten(2) for m in (part.query, part.key or part.query))
    expected = (torch.einsum("bdi,bdj->bij", query, key) / 8**0.5).softmax(-1)
    assert_close(block.weights(x), expected, **EXACT)


def test_weights_of_the_pyramid_are_the_mean_of_its_attentions() -> None:
    block = randomise(PyramidOC(16, sizes=(1, 3)).double()).eval()
    x = torch.randn(2, 16, 5, 7, dtype=torch.float64)
    attentions: Any = block.attentions
    for at in (None, (3, 2)):
        first, second = (attention.weights(x, at) for attention in attentions)
        assert_close(block.weights(x, at), (first + second) / 2, **EXACT)


def test_as_many_tiles_as_rows_split_into_single_rows() -> None:
    block = randomise(ObjectAttention(16, 8, 8, tiles=5).double()).eval()
    x = torch.randn(2, 16, 5, 7, dtype=torch.float64)
    expected = in_tiles(block, x, [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 7]])
    assert_close(block(x), expected, **EXACT)


def test_more_tiles_than_rows_do_not_split_the_rows() -> None:
    block = randomise(ObjectAttention(16, 8, 8, tiles=6).double()).eval()
    x = torch.randn(2, 16, 5, 7, dtype=torch.float64)
    expected = in_tiles(block, x, [[0, 5], [0, 1, 2, 3, 4, 5, 7]])
    assert_close(block(x), expected, **EXACT)


@pytest.mark.parametrize("block", [BaseOC(16), PyramidOC(16), ASPOC(16)])
def test_a_new_block_has_no_context(block: Any) -> None:
    parts = [m for m in block.modules() if isinstance(m, ObjectAttention)]
    assert parts
    for part in parts:
        assert part(torch.randn(2, part.value.in_channels, 5, 7)).abs().max() == 0


@pytest.mark.parametrize(
    ("block", "count"), [(BaseOC, 920_576), (PyramidOC, 5_782_016), (ASPOC, 5_739_904)]
)
def test_parameters_are_those_of_the_published_networks(block: Any, count: int) -> None:
    # Differences between the authors' ResNet-101 networks with and without the block and the
    # auxiliary head of 4,729,875: base 57,722,854, pyramid 62,584,294, asp 62,542,182, plain
    # 52,072,403.
    assert sum(p.numel() for p in block(512).parameters()) == count


def test_query_and_key_are_one_module_in_the_first_release_only() -> None:
    first, second = BaseOC(16).attention, BaseOC(16, variant="openseg").attention
    assert first.key is None
    assert len(first.query) == 3
    assert second.key is not None
    assert len(second.query) == len(second.key) == 6


def test_convolutions_of_query_and_key_have_biases_in_both_releases() -> None:
    for variant, count in (("ocnet", 1), ("openseg", 4)):
        block = ObjectAttention(16, 8, 16, variant=variant)
        layers = {id(m): m for part in (block.query, block.key) if part for m in part.modules()}
        convolutions = [m for m in layers.values() if isinstance(m, nn.Conv2d)]
        assert len(convolutions) == count
        assert all(m.bias is not None for m in convolutions)


@pytest.mark.parametrize("variant", ["ocnet", "openseg"])
def test_published_slopes_dropouts_and_dilations(variant: Any) -> None:
    blocks = [block(16, variant=variant) for block in (BaseOC, PyramidOC, ASPOC)]
    assert [set(slopes(block)) for block in blocks] == [{0.01}] * 3
    more = 3 if variant == "openseg" else 0  # of each attention
    assert [len(slopes(block)) for block in blocks] == [2 + more, 6 + 4 * more, 8 + more]
    assert [dropouts(block) for block in blocks] == [[0.05], [0.05], [0.1]]
    assert [a.tiles for a in blocks[1].attentions] == [1, 2, 3, 6]  # type: ignore[union-attr]
    branches: Any = blocks[2].branches
    assert [branch[0].dilation for branch in branches] == [(1, 1), (12, 12), (24, 24), (36, 36)]
    for block in (BaseOC, PyramidOC, ASPOC):
        assert dropouts(block(16, dropout=0.3, variant=variant)) == [0.3]


def test_pooling_by_2_halves_the_resolution() -> None:
    block = randomise(BaseOC(16, pool=2)).eval()
    x = torch.randn(1, 16, 97, 5)
    assert block.weights(x, at=(96, 4)).shape == (1, 48, 2)
    assert block(x).shape == x.shape


def test_invalid_arguments_raise() -> None:
    with pytest.raises(ValueError, match="openseg"):
        BaseOC(16, variant="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="outside"):
        BaseOC(16, pool=2).weights(torch.zeros(1, 16, 5, 7), at=(5, 0))
