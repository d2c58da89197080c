from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from scenewise.attention.disentangled import DisentangledNonLocal
from tests.attention.contract import (
    EXACT,
    BlockLaw,
    NeverHoldsTheMap,
    PermutesPositions,
    StartsAsIdentity,
    WeighsPositions,
    randomise,
)


def conv1(layer: Any, x: Tensor) -> Tensor:
    out = torch.einsum("oc,bcn->bon", layer.weight.flatten(1), x)
    return out if layer.bias is None else out + layer.bias[:, None]


def terms(block: DisentangledNonLocal, x: Tensor) -> tuple[Tensor, Tensor]:
    """The pairwise and the unary term, (B, d, N) and (B, d, 1), from the dense attention map."""
    q, k, v = (conv1(part, x.flatten(2)) for part in (block.query, block.key, block.value))
    q, k = q - q.mean(2, keepdim=True), k - k.mean(2, keepdim=True)
    energy = torch.einsum("bdi,bdj->bij", q, k) / (q.shape[1] ** 0.5 * 0.05)
    pairwise = torch.einsum("bij,bdj->bdi", energy.softmax(-1), v)
    return pairwise, (conv1(block.mask, x.flatten(2)).softmax(-1) * v).sum(2, keepdim=True)


def last(block: DisentangledNonLocal, y: Tensor) -> Tensor:
    n = block.norm
    return F.batch_norm(
        conv1(block.out, y), n.running_mean, n.running_var, n.weight, n.bias, eps=1e-5
    )


class TestOfficial(BlockLaw, PermutesPositions, WeighsPositions, NeverHoldsTheMap):
    def build(self, channels: int) -> DisentangledNonLocal:
        return DisentangledNonLocal(channels)

    def reference(self, block: DisentangledNonLocal, x: Tensor) -> Tensor:
        pairwise, unary = terms(block, x)
        return x + last(block, block.gamma * pairwise + unary).view_as(x)

    def test_a_new_block_adds_the_same_everywhere(self) -> None:
        block, (x,) = self.build(16).double().eval(), self.sample()
        added = (block(x) - x).flatten(2)
        assert added.abs().max() > 0
        assert_close(added, added[:, :, :1].expand_as(added), **EXACT)


class TestMmseg(BlockLaw, StartsAsIdentity):
    def build(self, channels: int) -> DisentangledNonLocal:
        return DisentangledNonLocal(channels, variant="mmseg")

    def reference(self, block: DisentangledNonLocal, x: Tensor) -> Tensor:
        pairwise, unary = terms(block, x)
        return x + last(block, pairwise + unary).view_as(x)

    def test_pairwise_weights_do_not_see_a_common_offset(self) -> None:
        block, (x,) = self.ready(), self.sample()
        assert isinstance(block, DisentangledNonLocal)
        offset = torch.randn(1, 16, 1, 1, dtype=torch.float64)
        assert_close(block.weights(x + offset), block.weights(x), **EXACT)

    def test_unary_weights_sum_to_1(self) -> None:
        block, (x,) = self.ready(), self.sample()
        assert isinstance(block, DisentangledNonLocal)
        total = block.unary_weights(x).sum((1, 2))
        assert_close(total, torch.ones(2, dtype=torch.float64), **EXACT)


def test_pairwise_weights_are_those_of_the_dense_map() -> None:
    block = randomise(DisentangledNonLocal(16).double()).eval()
    assert isinstance(block, DisentangledNonLocal)
    x = torch.randn(2, 16, 5, 7, dtype=torch.float64)
    q, k = (conv1(part, x.flatten(2)) for part in (block.query, block.key))
    q, k = q - q.mean(2, keepdim=True), k - k.mean(2, keepdim=True)
    expected = (torch.einsum("bdi,bdj->bij", q, k) / (8**0.5 * 0.05)).softmax(-1)
    assert_close(block.weights(x), expected, **EXACT)


def test_published_size() -> None:
    # mmsegmentation's non-local head has 50,023,814 parameters, its DNL head 513 more: the mask.
    count = 3 * (512 * 256 + 256) + 256 * 512 + 2 * 512 + 513
    assert sum(p.numel() for p in DisentangledNonLocal(512, variant="mmseg").parameters()) == count


def test_initial_weights_are_small_and_biases_zero() -> None:
    block = DisentangledNonLocal(64)
    for layer in (block.query, block.key, block.value, block.mask, block.out):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.3)
        assert layer.bias is None or not layer.bias.any()
    assert DisentangledNonLocal(1).query.out_channels == 1


def test_unknown_variant_raises() -> None:
    with pytest.raises(ValueError, match="official"):
        DisentangledNonLocal(16, variant="x")  # type: ignore[arg-type]
