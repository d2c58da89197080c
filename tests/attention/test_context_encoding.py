import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from scenewise.attention.context_encoding import ContextEncoding, encode
from tests.attention.contract import EXACT, BlockLaw, PermutesPositions


def pixel_by_pixel(x: Tensor, codewords: Tensor, smoothing: Tensor) -> Tensor:
    out = x.new_zeros(len(x), *codewords.shape)
    for b, sample in enumerate(x):
        for feature in sample:
            residuals = feature - codewords
            share = (smoothing * residuals.square().sum(1)).exp()
            out[b] += (share / share.sum())[:, None] * residuals
    return out


class TestContextEncoding(BlockLaw, PermutesPositions):
    def build(self, channels: int) -> ContextEncoding:
        return ContextEncoding(channels, codewords=4)

    def reference(self, block: ContextEncoding, x: Tensor) -> Tensor:
        inner = block.project(x).flatten(2).transpose(1, 2)
        codes = pixel_by_pixel(inner, block.codewords, block.smoothing)
        n = block.norm
        spread = (n.running_var + 1e-5).sqrt()  # type: ignore[operator]
        codes = (codes - n.running_mean[:, None]) / spread[:, None]  # type: ignore[index]
        codes = (codes * n.weight[:, None] + n.bias[:, None]).clamp(min=0)
        gate = codes.sum(1) / 4 @ block.gate.weight.T + block.gate.bias
        return (x * (1 + 1 / (1 + torch.exp(-gate)))[:, :, None, None]).clamp(min=0)

    def test_gates_explain_the_output(self) -> None:
        block, (x,) = self.ready(), self.sample()
        assert isinstance(block, ContextEncoding)
        gates = block.gates(x)[:, :, None, None]
        assert_close(block(x), (x + gates * x).relu(), **EXACT)

    def test_presence_comes_from_the_same_encoding(self) -> None:
        (x,) = self.sample()
        block = ContextEncoding(16, codewords=4, classes=3).double().eval()
        y, presence = block.with_presence(x)
        assert torch.equal(y, block(x))
        assert presence.shape == (2, 3)
        presence.sum().backward()
        assert block.codewords.grad is not None
        assert block.codewords.grad.abs().max() > 0
        with pytest.raises(ValueError, match="classes"):
            self.build(16).with_presence(x)  # type: ignore[operator]


def test_encode_equals_the_sum_over_pixels() -> None:
    x, codewords = torch.randn(2, 11, 3).double(), torch.randn(5, 3).double()
    smoothing = -torch.rand(5).double()
    expected = pixel_by_pixel(x, codewords, smoothing)
    assert_close(encode(x, codewords, smoothing), expected, **EXACT)


def test_initial_smoothing_and_codewords_are_those_of_the_authors() -> None:
    # The authors draw both uniformly: smoothing in -1..0, codewords within 1 / sqrt(K D).
    block = ContextEncoding(64, codewords=400)
    assert -1 <= block.smoothing.min() < -0.98
    assert -0.02 < block.smoothing.max() <= 0
    bound = (400 * block.codewords.shape[1]) ** -0.5
    assert 0.99 * bound < block.codewords.max() <= bound
    assert -bound <= block.codewords.min() < -0.99 * bound


def test_encode_by_hand() -> None:
    # One pixel halfway between two codewords belongs to each by half.
    out = encode(torch.tensor([[[1.0]]]), torch.tensor([[0.0], [2.0]]), torch.tensor([-3.0, -3.0]))
    assert_close(out, torch.tensor([[[0.5], [-0.5]]]))
