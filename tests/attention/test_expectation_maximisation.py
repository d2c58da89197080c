import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from scenewise.attention.expectation_maximisation import (
    ExpectationMaximisation,
    expectation_maximisation,
)
from tests.attention.contract import EXACT, BlockLaw, PermutesPositions, WeighsPositions


def rebuilt(block: ExpectationMaximisation, x: Tensor) -> Tensor:
    """Basis by basis, on (B, C, N)."""
    inner = torch.einsum("oc,bcn->bon", block.first.weight.flatten(1), x.flatten(2))
    inner = inner + block.first.bias[:, None]  # type: ignore[index]
    mu = [basis.expand(len(x), -1) for basis in block.bases]
    for _ in range(block.stages):
        energy = torch.stack([(inner * m[..., None]).sum(1) for m in mu], dim=1)
        z = energy.exp() / energy.exp().sum(1, keepdim=True)  # (B, K, N)
        sums = [(inner * z[:, k, None]).sum(2) for k in range(len(mu))]
        mu = [s / s.square().sum(1, keepdim=True).sqrt() for s in sums]
    return torch.einsum("kbc,bkn->bcn", torch.stack(mu), z)


class TestExpectationMaximisation(BlockLaw, PermutesPositions, WeighsPositions):
    def build(self, channels: int) -> ExpectationMaximisation:
        return ExpectationMaximisation(channels, bases=4)

    def reference(self, block: ExpectationMaximisation, x: Tensor) -> Tensor:
        y = torch.einsum("oc,bcn->bon", block.last.weight.flatten(1), rebuilt(block, x).relu())
        n = block.norm
        y = F.batch_norm(y, n.running_mean, n.running_var, n.weight, n.bias, eps=1e-5)
        return (y.view_as(x) + x).relu()

    def test_gradients_are_finite_from_the_first_step(self) -> None:
        block = self.build(16).train()
        block(torch.randn(2, 16, 5, 7)).square().sum().backward()
        for name, value in block.named_parameters():
            if name.startswith("first."):
                assert value.grad is None
            else:
                assert value.grad is not None
                assert value.grad.isfinite().all(), name

    def held(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The output, that with the reconstructed pixels held constant, and what both depend on."""
        block, (x,) = self.ready(), self.sample()
        assert isinstance(block, ExpectationMaximisation)
        x.requires_grad_()
        fixed = rebuilt(block, x).detach().relu()
        y = block.norm(torch.einsum("oc,bcn->bon", block.last.weight.flatten(1), fixed)[..., None])
        expected = (y[..., 0].view_as(x) + x).relu()
        return block(x), expected, [x, block.last.weight, block.norm.weight]

    def test_gradients_are_those_of_the_function(self) -> None:
        out, expected, inputs = self.held()
        weight = torch.randn_like(out)
        gradients = torch.autograd.grad((out * weight).sum(), inputs)
        assert_close(gradients, torch.autograd.grad((expected * weight).sum(), inputs), **EXACT)

    def test_second_derivatives_are_those_of_the_function(self) -> None:
        out, expected, inputs = self.held()
        second = []
        for y in (out, expected):
            first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
            total = torch.stack([g.square().sum() for g in first]).sum()
            second.append(torch.autograd.grad(total, inputs))
        assert_close(second[0], second[1], **EXACT)

    def test_training_updates_the_bases_and_evaluation_does_not(self) -> None:
        block, (x,) = self.ready(), self.sample()
        assert isinstance(block, ExpectationMaximisation)
        before = block.bases.clone()
        block(x)
        assert torch.equal(block.bases, before)
        block.train()(x)
        assert (block.bases - before).abs().max() > 1e-3
        length = block.bases.square().sum(1)
        assert_close(length, torch.ones_like(length), **EXACT)


def test_bases_find_two_clusters() -> None:
    x = torch.tensor([[[9.0, 0.0], [8.0, 0.0], [0.0, 7.0]]])
    start = F.normalize(torch.tensor([[1.0, 0.5], [0.5, 1.0]]), dim=-1)
    shares, bases = expectation_maximisation(x, start, stages=5)
    assert_close(bases[0], torch.eye(2), rtol=0, atol=1e-3)
    assert_close(shares[0], torch.tensor([[1.0, 0], [1, 0], [0, 1]]), rtol=0, atol=2e-3)


def test_three_iterations_are_the_default() -> None:
    x, bases = torch.randn(2, 9, 4).double(), F.normalize(torch.randn(3, 4).double(), dim=-1)
    default = expectation_maximisation(x, bases)
    assert_close(default, expectation_maximisation(x, bases, stages=3))
    assert not torch.allclose(default[1], expectation_maximisation(x, bases, stages=4)[1])
    assert ExpectationMaximisation(16).stages == 3
    assert ExpectationMaximisation(16).bases.shape == (64, 16)


def test_initialisation_is_that_of_the_authors() -> None:
    block = ExpectationMaximisation(128)
    for layer in (block.first, block.last):
        assert layer.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.05)
    assert block.last.bias is None
    assert_close(block.bases.norm(dim=1), torch.ones(64))


def test_the_bases_move_by_a_tenth() -> None:
    block = ExpectationMaximisation(8, bases=3).double().train()
    x, before = torch.randn(2, 8, 5, 7).double(), block.bases.clone()
    pixels = block.first(x).flatten(2).transpose(1, 2)
    fitted = expectation_maximisation(pixels, before)[1].mean(0)
    block(x)
    assert_close(block.bases, F.normalize(0.9 * before + 0.1 * fitted, dim=1), **EXACT)


def test_half_precision_bases_keep_their_dtype_in_training() -> None:
    block = ExpectationMaximisation(8, bases=3).bfloat16().train()
    assert not block.first.weight.requires_grad
    assert not block.first.bias.requires_grad  # type: ignore[union-attr]
    block(torch.randn(2, 8, 5, 7).bfloat16()).sum().backward()
    assert block.bases.dtype == torch.bfloat16
    assert block.bases.isfinite().all()


def test_zero_stages_raise() -> None:
    with pytest.raises(ValueError, match="stages"):
        ExpectationMaximisation(16, stages=0)
    assert ExpectationMaximisation(16, stages=1).stages == 1
