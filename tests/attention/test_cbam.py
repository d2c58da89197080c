from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from scenewise.attention.cbam import CBAM
from tests.attention.contract import EXACT, BlockLaw, randomise


def perceptron(block: CBAM, pooled: Tensor) -> Tensor:
    first: Any = block.channel[0]
    last: Any = block.channel[2]
    return (pooled @ first.weight.T + first.bias).clamp(min=0) @ last.weight.T + last.bias


def plain(block: CBAM, x: Tensor) -> Tensor:
    """The block with its convolution in plain loops."""
    gate = perceptron(block, x.flatten(2).mean(2)) + perceptron(block, x.flatten(2).amax(2))
    x = x / (1 + torch.exp(-gate))[:, :, None, None]
    maps = [x.amax(1), x.mean(1)] if block.variant == "official" else [x.mean(1), x.amax(1)]
    kernel = block.spatial.weight[0]
    out = torch.empty_like(x)
    for row in range(x.shape[2]):
        for column in range(x.shape[3]):
            total = torch.zeros(len(x), dtype=x.dtype)
            for m, i, j in torch.cartesian_prod(*(torch.arange(n) for n in kernel.shape)):
                h, w = int(row + i - kernel.shape[1] // 2), int(column + j - kernel.shape[2] // 2)
                if 0 <= h < x.shape[2] and 0 <= w < x.shape[3]:
                    total = total + kernel[m, i, j] * maps[m][:, h, w]
            n: Any = block.norm
            if block.variant == "official":
                spread = (n.running_var + 1e-5).sqrt()
                total = (total - n.running_mean) / spread * n.weight + n.bias
            out[:, :, row, column] = x[:, :, row, column] / (1 + torch.exp(-total))[:, None]
    return out


class TestCBAM(BlockLaw):
    def build(self, channels: int) -> CBAM:
        return CBAM(channels, reduction=4, kernel_size=3)

    def reference(self, block: CBAM, x: Tensor) -> Tensor:
        return plain(block, x)

    def test_gates_explain_the_output(self) -> None:
        block, (x,) = self.ready(), self.sample()
        assert isinstance(block, CBAM)
        channel, spatial = block.gates(x)
        assert_close(block(x), channel[:, :, None, None] * spatial[:, None] * x, **EXACT)

    def test_the_channel_gate_ignores_positions(self) -> None:
        block, (x,) = self.ready(), self.sample()
        assert isinstance(block, CBAM)
        moved = x.flip(3)
        assert_close(block.gates(moved)[0], block.gates(x)[0], **EXACT)
        assert (block.gates(moved)[1] - block.gates(x)[1].flip(2)).abs().max() > 1e-4


def test_the_paper_variant_equals_its_reference() -> None:
    block = randomise(CBAM(16, variant="paper").double()).eval()
    x = torch.randn(2, 16, 5, 7, dtype=torch.float64)
    assert_close(block(x), plain(block, x), **EXACT)


def test_starts_at_half_of_the_channel_gate() -> None:
    block, x = CBAM(32), torch.randn(2, 32, 5, 7)
    for mode in (True, False):
        channel, spatial = block.train(mode).gates(x)
        assert torch.equal(spatial, torch.full_like(spatial, 0.5))
        assert_close(block(x), 0.5 * channel[:, :, None, None] * x)


def test_settings_of_the_published_code() -> None:
    block: Any = CBAM(64)
    assert [block.channel[i].weight.shape for i in (0, 2)] == [(4, 64), (64, 4)]
    assert block.spatial.weight.shape == (1, 2, 7, 7)
    assert not block.channel[0].bias.any()
    assert not block.channel[2].bias.any()
    assert block.norm.momentum == 0.01
    assert CBAM(8).channel[0].out_features == 1
    assert list(CBAM(16, variant="paper").norm.parameters()) == []
    large = CBAM(16, kernel_size=45).spatial.weight  # drawn for the outputs: 1 x 45 x 45
    assert large.std().item() == pytest.approx((2 / 45**2) ** 0.5, rel=0.05)


def test_invalid_arguments_raise() -> None:
    with pytest.raises(ValueError, match="odd"):
        CBAM(16, kernel_size=4)
    with pytest.raises(ValueError, match="paper"):
        CBAM(16, variant="x")  # type: ignore[arg-type]
