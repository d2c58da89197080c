import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from scenewise.attention.asymmetric import AsymmetricFusion, AsymmetricPyramid, pyramid_average
from tests.attention.contract import (
    EXACT,
    BlockLaw,
    NeverHoldsTheMap,
    dropouts,
    randomise,
    slopes,
)

SIZES = (1, 3)


def pooling(height: int, width: int) -> Tensor:
    """The averages as a matrix (S, N), bin by bin: from floor(i H / s) to ceil((i + 1) H / s)."""
    rows = []
    for s in SIZES:
        for i in range(s):
            for j in range(s):
                one = torch.zeros(height, width, dtype=torch.float64)
                top, bottom = i * height // s, math.ceil((i + 1) * height / s)
                left, right = j * width // s, math.ceil((j + 1) * width / s)
                one[top:bottom, left:right] = 1 / ((bottom - top) * (right - left))
                rows.append(one.flatten())
    return torch.stack(rows)


def bin_weights(part: Any, x: Tensor, source: Tensor) -> Tensor:
    """(B, N, S), dense."""
    key = (part.query if part.key is None else part.key)(source).flatten(2)
    averages = key @ pooling(*source.shape[2:]).T
    query = part.query(x).flatten(2)
    energy = torch.einsum("bdi,bds->bis", query, averages) / query.shape[1] ** 0.5
    return energy.softmax(-1)


def context(part: Any, x: Tensor, source: Tensor) -> Tensor:
    averages = part.value(source).flatten(2) @ pooling(*source.shape[2:]).T
    gathered = torch.einsum("bis,bcs->bci", bin_weights(part, x, source), averages)
    return part.out(gathered.unflatten(2, x.shape[2:]))


class TestAsymmetricPyramid(BlockLaw, NeverHoldsTheMap):
    def build(self, channels: int) -> AsymmetricPyramid:
        return AsymmetricPyramid(channels, sizes=SIZES)

    def reference(self, block: AsymmetricPyramid, x: Tensor) -> Tensor:
        return block.mix(torch.cat([context(block.attention, x, x), x], dim=1))

    def test_weights_are_distributed_through_the_averages_to_pixels(self) -> None:
        block, (x,) = self.ready(), self.sample()
        assert isinstance(block, AsymmetricPyramid)
        whole = bin_weights(block.attention, x, x) @ pooling(5, 7)
        one = block.weights(x, at=(2, 4))
        assert_close(one.flatten(1), whole[:, 2 * 7 + 4], **EXACT)
        assert_close(one.sum((1, 2)), torch.ones(2, dtype=torch.float64), **EXACT)


class TestAsymmetricFusion(BlockLaw):
    def build(self, channels: int) -> AsymmetricFusion:
        return AsymmetricFusion(channels, low_channels=6, sizes=SIZES)

    def inputs(self, batch: int, channels: int, size: tuple[int, ...]) -> tuple[Tensor, ...]:
        low = size[0] + 2, size[1] + 1
        shapes = (batch, channels, *size), (batch, 6, *low)
        return tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)

    def reference(self, block: Any, *inputs: Tensor) -> Tensor:
        x, low = inputs
        return block.mix(torch.cat([context(block.attention, x, low), x], dim=1))

    def test_weights_have_the_size_of_the_shallow_map(self) -> None:
        block, (x, low) = self.ready(), self.sample()
        assert isinstance(block, AsymmetricFusion)
        one = block.weights(x, low, at=(4, 6))
        assert one.shape == (2, 7, 8)
        whole = bin_weights(block.attention, x, low) @ pooling(7, 8)
        assert_close(one.flatten(1), whole[:, 34], **EXACT)


def test_mmseg_variant_equals_its_reference_and_its_published_size() -> None:
    x = torch.randn(2, 16, 5, 7).double()
    block = randomise(AsymmetricPyramid(16, sizes=SIZES, variant="mmseg").double()).eval()
    expected = block.mix(torch.cat([context(block.attention, x, x), x], dim=1))
    assert_close(block(x), expected, **EXACT)
    # ANNHead: project channels 256; fusion of 1024 and 2048 channels, context of 512.
    fusion = 1024 * 256 + 2048 * 256 + 4 * 256 + 1024 * 256 + 256 + 256 * 2048 + 2048
    fusion += 4096 * 2048 + 2 * 2048
    fusion_block = AsymmetricFusion(2048, 1024, variant="mmseg")
    assert sum(p.numel() for p in fusion_block.parameters()) == fusion
    pyramid = 512 * 256 + 2 * 256 + 512 * 256 + 256 + 256 * 512 + 512 + 1024 * 512 + 2 * 512
    pyramid_block = AsymmetricPyramid(512, variant="mmseg")
    assert sum(p.numel() for p in pyramid_block.parameters()) == pyramid


def test_a_new_block_has_no_context() -> None:
    block, x = AsymmetricPyramid(16), torch.randn(2, 16, 9, 11)
    assert block.attention(x, x).abs().max() == 0


def test_there_are_110_averages_and_the_first_is_the_mean() -> None:
    x = torch.randn(2, 4, 17, 13)
    averages = pyramid_average(x)
    assert averages.shape == (2, 110, 4)
    assert_close(averages[:, 0], x.mean((2, 3)))


def test_published_activations_and_dropouts() -> None:
    blocks: list[Any] = [AsymmetricPyramid, partial(AsymmetricFusion, low_channels=8)]
    for build, activations in zip(blocks, (2, 2), strict=True):
        assert slopes(build(16)) == slopes(build(16, variant="mmseg")) == [0.0] * activations
        assert dropouts(build(16)) == [0.05]
        assert build(16).mix[0].bias is not None
        assert build(16, variant="mmseg").mix[0].bias is None
        assert build(16).attention.sizes == (1, 3, 6, 8)
        assert dropouts(build(16, dropout=0.3)) == [0.3]
        assert dropouts(build(16, variant="mmseg")) == []


def test_invalid_arguments_raise() -> None:
    with pytest.raises(ValueError, match="mmseg"):
        AsymmetricPyramid(16, variant="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="outside"):
        AsymmetricPyramid(16).weights(torch.zeros(1, 16, 5, 7), at=(5, 0))
