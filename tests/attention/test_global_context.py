import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from scenewise.attention.global_context import GlobalContext
from tests.attention.contract import EXACT, BlockLaw, PermutesPositions, StartsAsIdentity


class TestGlobalContext(BlockLaw, StartsAsIdentity, PermutesPositions):
    def build(self, channels: int) -> GlobalContext:
        return GlobalContext(channels)

    def reference(self, block: GlobalContext, x: Tensor) -> Tensor:
        """Sample by sample, on (C, N)."""
        out = torch.empty_like(x)
        for b, flat in enumerate(x.flatten(2)):
            energy = (block.mask.weight.view(16, 1) * flat).sum(0)  # its bias cancels
            context = (flat * energy.exp() / energy.exp().sum()).sum(1)
            inner = block.squeeze.weight.view(4, 16) @ context + block.squeeze.bias
            spread = ((inner - inner.mean()).square().mean() + 1e-5).sqrt()
            inner = (inner - inner.mean()) / spread * block.norm.weight.view(4)
            inner = (inner + block.norm.bias.view(4)).clamp(min=0)
            added = block.excite.weight.view(16, 4) @ inner + block.excite.bias
            out[b] = x[b] + added[:, None, None]
        return out

    def test_weights_sum_to_1_and_are_the_same_everywhere(self) -> None:
        block, (x,) = self.ready(), self.sample()
        assert isinstance(block, GlobalContext)
        assert_close(block.weights(x).sum((1, 2)), torch.ones(2, dtype=torch.float64), **EXACT)
        assert torch.equal(block.weights(x, at=(1, 2)), block.weights(x))

    def test_adds_the_same_to_every_pixel(self) -> None:
        block, (x,) = self.ready(), self.sample()
        added = (block(x) - x).flatten(2)
        assert_close(added, added[:, :, :1].expand_as(added), **EXACT)


def test_published_size() -> None:
    # mmsegmentation's gc_block: mask 1 x 512, 128 x 512, a norm of 128, 512 x 128.
    count = 513 + (128 * 512 + 128) + 2 * 128 + (512 * 128 + 512)
    assert sum(p.numel() for p in GlobalContext(512).parameters()) == count


def test_the_mask_is_initialised_by_its_input_channels() -> None:
    assert GlobalContext(4096).mask.weight.std().item() == pytest.approx((2 / 4096) ** 0.5, rel=0.1)
    assert GlobalContext(4).squeeze.out_channels == 1


def test_too_few_channels_raise() -> None:
    with pytest.raises(ValueError, match="reduced"):
        GlobalContext(3)
