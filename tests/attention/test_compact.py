from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from scenewise.attention.compact import CompactChannel, CompactPosition, CrossLevelGate
from tests.attention.contract import (
    EXACT,
    BlockLaw,
    NeverHoldsTheMap,
    PermutesPositions,
    StartsAsIdentity,
    randomise,
)


class TestCompactPosition(BlockLaw, StartsAsIdentity, NeverHoldsTheMap):
    def build(self, channels: int) -> CompactPosition:
        return CompactPosition(channels, sizes=(1, 2))

    def reference(self, block: CompactPosition, x: Tensor) -> Tensor:
        """Centre by centre, with bins of 5 x 7 written out."""
        one: Any = block.encode[0]
        four: Any = block.encode[1]
        bins = [x[..., a, b] for a in (slice(0, 3), slice(2, 5)) for b in (slice(4), slice(3, 7))]
        means = torch.stack([b.mean((2, 3)) for b in bins], dim=2).view(2, 16, 2, 2)
        centres = torch.cat(
            [one(x.mean((2, 3), keepdim=True)).flatten(2), four(means).flatten(2)], dim=2
        )
        key = centres.transpose(1, 2) @ block.key.weight.T + block.key.bias
        value = centres.transpose(1, 2) @ block.value.weight.T + block.value.bias
        query = block.query(x)
        energy = torch.stack([(query * k[..., None, None]).sum(1) for k in key.unbind(1)], dim=1)
        share = energy.exp() / energy.exp().sum(1, keepdim=True)
        gathered = torch.einsum("bshw,bsc->bchw", share, value)
        return block.gamma * gathered + x

    def test_weights_of_the_centres_sum_to_1(self) -> None:
        block, (x,) = self.ready(), self.sample()
        assert isinstance(block, CompactPosition)
        weights = block.centre_weights(x)
        assert weights.shape == (2, 35, 5)
        assert_close(weights.sum(-1), torch.ones(2, 35, dtype=torch.float64), **EXACT)
        assert_close(block.centre_weights(x, at=(3, 1)), weights[:, 22], **EXACT)

    def test_weights_of_the_bins_are_distributed_to_their_pixels(self) -> None:
        block, (x,) = self.ready(), self.sample()
        assert isinstance(block, CompactPosition)
        shares = block.centre_weights(x, at=(3, 1))
        expected = (shares[:, 0] / 35)[:, None, None].repeat(1, 5, 7)
        corners = [(a, b) for a in (slice(0, 3), slice(2, 5)) for b in (slice(4), slice(3, 7))]
        for centre, (rows, columns) in enumerate(corners, start=1):
            expected[:, rows, columns] += (shares[:, centre] / 12)[:, None, None]
        assert_close(block.weights(x, at=(3, 1)), expected, **EXACT)


class TestCompactChannel(BlockLaw, StartsAsIdentity, PermutesPositions):
    def build(self, channels: int) -> CompactChannel:
        return CompactChannel(channels, reduction=4)

    def reference(self, block: CompactChannel, x: Tensor) -> Tensor:
        """One channel and one centre at a time, with the published maximum minus energy."""
        centres = block.encode(x)
        out = x.clone()
        for c in range(16):
            energy = torch.stack([(x[:, c] * y).sum((1, 2)) for y in centres.unbind(1)], dim=1)
            energy = (energy.amax(1, keepdim=True) - energy).exp()
            share = energy / energy.sum(1, keepdim=True)
            out[:, c] += block.gamma * torch.einsum("bs,bshw->bhw", share, centres)
        return out

    def test_weights_of_the_centres_sum_to_1(self) -> None:
        block, (x,) = self.ready(), self.sample()
        assert isinstance(block, CompactChannel)
        weights = block.weights(x)
        assert weights.shape == (2, 16, 4)
        assert_close(weights.sum(-1), torch.ones(2, 16, dtype=torch.float64), **EXACT)


class TestCrossLevelGate(BlockLaw):
    def build(self, channels: int) -> CrossLevelGate:
        return CrossLevelGate(channels, low_channels=3, inner=4)

    def inputs(self, batch: int, channels: int, size: tuple[int, ...]) -> tuple[Tensor, ...]:
        shapes = (batch, channels, *size), (batch, 3, *size)
        return tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)

    def reference(self, block: Any, *inputs: Tensor) -> Tensor:
        low, high = block.low(inputs[1]), inputs[0]
        energy = torch.einsum("c,bchw->bhw", block.gate.weight.flatten(), torch.cat([low, high], 1))
        gate = 1 / (1 + torch.exp(-energy - block.gate.bias))
        refined = block.gamma * gate[:, None] * low
        return block.out(block.fuse(torch.cat([refined, high], dim=1)))

    def test_the_deep_map_is_upsampled_to_the_shallow_one(self) -> None:
        block, x = self.ready(), torch.randn(2, 16, 3, 4).double()
        low = torch.randn(2, 3, 5, 7).double()
        assert isinstance(block, CrossLevelGate)
        high = F.interpolate(x, (5, 7), mode="bilinear", align_corners=True)
        assert_close(block(x, low), block(high, low), **EXACT)
        gates = block.gates(x, low)
        assert gates.shape == (2, 5, 7)
        assert ((gates > 0) & (gates < 1)).all()

    def test_a_closed_gate_leaves_the_deep_map_alone(self) -> None:
        block, (x, low) = self.ready(), self.sample()
        assert isinstance(block, CrossLevelGate)
        block.gamma.data.zero_()
        assert_close(block(x, low), block(x, low + 1), **EXACT)


def test_published_sizes() -> None:
    # DRANet: 50 centres of 512 channels, query and key 128; 32 channel centres; gate of 256 + 32.
    position = 4 * (512 * 512 + 1024) + 2 * (512 * 128 + 128) + 512 * 512 + 512 + 1
    assert sum(p.numel() for p in CompactPosition(512).parameters()) == position
    assert CompactPosition(512).eval().centre_weights(torch.zeros(1, 512, 6, 7)).shape == (
        1,
        42,
        50,
    )
    assert sum(p.numel() for p in CompactChannel(512).parameters()) == 512 * 32 + 64 + 1
    gate = 256 * 32 * 9 + 64 + 289 + 288 * 256 * 9 + 512 + 256 * 256 * 9 + 512 + 1
    assert sum(p.numel() for p in CrossLevelGate(256, 256).parameters()) == gate


def test_outputs_of_the_gate_may_differ() -> None:
    gate = randomise(CrossLevelGate(16, 8, outputs=5)).eval()
    assert gate(torch.randn(2, 16, 3, 4), torch.randn(2, 8, 5, 7)).shape == (2, 5, 5, 7)


def test_at_least_one_centre_remains() -> None:
    assert CompactChannel(8).encode[0].out_channels == 1
    assert CompactChannel(33).encode[0].out_channels == 2


def test_initial_values_of_gamma() -> None:
    assert CompactPosition(16).gamma.item() == CompactChannel(16).gamma.item() == 0
    gate = CrossLevelGate(16, 8)
    assert gate.gamma.item() == 1
    assert gate.low[0].out_channels == 32


def test_too_few_channels_raise() -> None:
    assert CompactPosition(4).query.out_channels == 1
    with pytest.raises(ValueError, match="3 channels cannot be reduced by 4"):
        CompactPosition(3)
