import torch
from torch import Tensor
from torch.testing import assert_close

from scenewise.attention.squeeze_excite import SqueezeExcite
from tests.attention.contract import BlockLaw, PermutesPositions


class TestSqueezeExcite(BlockLaw, PermutesPositions):
    def build(self, channels: int) -> SqueezeExcite:
        return SqueezeExcite(channels, reduction=4)

    def reference(self, block: SqueezeExcite, x: Tensor) -> Tensor:
        """One sample and one channel at a time."""
        out = torch.empty_like(x)
        for b, sample in enumerate(x):
            mean = sample.sum((1, 2)) / 35
            hidden = block.squeeze.weight[:, :, 0, 0] @ mean + block.squeeze.bias
            hidden = torch.where(hidden > 0, hidden, torch.zeros_like(hidden))
            gates = block.excite.weight[:, :, 0, 0] @ hidden + block.excite.bias
            for c in range(16):
                out[b, c] = sample[c] / (1 + torch.exp(-gates[c]))
        return out

    def test_gates_are_the_ratio_of_output_and_input(self) -> None:
        block, (x,) = self.ready(), self.sample()
        assert isinstance(block, SqueezeExcite)
        gates = block.gates(x)
        assert ((gates > 0) & (gates < 1)).all()
        assert_close((block(x) / x)[:, :, 2, 3], gates)


def test_published_size() -> None:
    # The first block of SE-ResNet-50: 256 channels down to 16 and back, both with bias.
    block = SqueezeExcite(256)
    assert block.squeeze.weight.shape == (16, 256, 1, 1)
    assert sum(p.numel() for p in block.parameters()) == 2 * 16 * 256 + 16 + 256


def test_at_least_one_inner_channel_remains() -> None:
    assert SqueezeExcite(8).squeeze.out_channels == 1
