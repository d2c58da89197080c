import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from scenewise.attention import ChannelAttention, channel_attention
from scenewise.attention.channel import Similarity, _channel_weights
from tests.attention.contract import (
    EXACT,
    BlockLaw,
    PermutesChannels,
    PermutesPositions,
    StartsAsIdentity,
)


class TestReversed(BlockLaw, StartsAsIdentity, PermutesChannels, PermutesPositions):
    similarity = "reversed"

    def build(self, channels: int) -> nn.Module:
        return ChannelAttention(channels, similarity=self.similarity)  # type: ignore[arg-type]

    def reference(self, block: ChannelAttention, x: Tensor) -> Tensor:
        """The released code's formula, rowmax - E, sample by sample."""
        out = []
        for sample in x:
            flat = sample.flatten(1)
            energy = flat @ flat.T
            if self.similarity == "reversed":
                energy = energy.max(dim=1, keepdim=True).values - energy
            mixed = torch.softmax(energy, dim=1) @ flat
            out.append(block.gamma * mixed.view_as(sample) + sample)
        return torch.stack(out)

    def test_rows_of_weights_sum_to_1(self) -> None:
        block, (x,) = self.ready(), self.sample()
        weights = block.weights(x)
        assert weights.shape == (2, 16, 16)
        assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), **EXACT)


class TestDirect(TestReversed):
    similarity = "direct"


def test_hand_computed() -> None:
    """Channels (1, 0) and (1, log 3): products 1, 1 and 1, 1 + (log 3)^2."""
    log3 = torch.tensor(3.0, dtype=torch.float64).log()
    x = torch.tensor([[[1.0, 0.0], [1.0, log3]]], dtype=torch.float64)
    far = (log3**2).exp()
    rest = far / (1 + far)
    expected = torch.tensor([[[1, log3 / 2], [1, log3 * (1 - rest)]]], dtype=torch.float64)
    assert_close(channel_attention(x), expected, **EXACT)
    expected[0, 1, 1] = log3 * rest
    assert_close(channel_attention(x, similarity="direct"), expected, **EXACT)


def test_half_precision_energies_do_not_overflow() -> None:
    """1e5 products of 2 x 2 exceed float16, whose largest number is 65504."""
    x = torch.full((1, 2, 100_000), 2.0, dtype=torch.float16)
    mixed = channel_attention(x)
    assert mixed.dtype == torch.float16
    assert_close(mixed, x)


def test_unknown_similarity_raises() -> None:
    with pytest.raises(ValueError, match="'reversed' or 'direct', got 'cosine'"):
        ChannelAttention(similarity="cosine")  # type: ignore[arg-type]


@pytest.mark.parametrize("similarity", ["reversed", "direct"])
def test_no_weight_is_subnormal(similarity: Similarity) -> None:
    """Subnormal weights would slow down the next product, and change no sum."""
    x = torch.randn(1, 64, 500) * torch.linspace(0.2, 2, 64)[:, None]
    weights = _channel_weights(x, similarity=similarity)
    assert weights.min() > torch.finfo(torch.float32).tiny
    energy = x.double() @ x.double().transpose(1, 2)
    plain = torch.softmax(-energy if similarity == "reversed" else energy, dim=-1)
    assert (plain < torch.finfo(torch.float32).tiny).any()
    torch.testing.assert_close(weights.double(), plain, rtol=1e-3, atol=1e-6)
