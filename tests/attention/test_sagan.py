import pytest
import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F
from torch.testing import assert_close

from scenewise.attention.position import PositionAttention
from scenewise.attention.sagan import SAGANAttention
from tests.attention.contract import (
    EXACT,
    BlockLaw,
    NeverHoldsTheMap,
    PermutesPositions,
    StartsAsIdentity,
    WeighsPositions,
    randomise,
)


def dense(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(B, D, Nq), (B, D, Nk), (B, C, Nk) -> (B, C, Nq)."""
    weights = torch.einsum("bdi,bdj->bij", query, key).softmax(-1)
    return torch.einsum("bij,bcj->bci", weights, value)


class TestPaper(BlockLaw, StartsAsIdentity, PermutesPositions, WeighsPositions, NeverHoldsTheMap):
    def build(self, channels: int) -> SAGANAttention:
        return SAGANAttention(channels, reduction=4)

    def reference(self, block: SAGANAttention, x: Tensor) -> Tensor:
        q, k, v = (part(x).flatten(2) for part in (block.query, block.key, block.value))
        return block.gamma * dense(q, k, v).view_as(x) + x


class TestPooled(BlockLaw, StartsAsIdentity):
    def build(self, channels: int) -> SAGANAttention:
        return SAGANAttention(channels, reduction=4, pooled=True)

    def reference(self, block: SAGANAttention, x: Tensor) -> Tensor:
        pooled = [F.max_pool2d(part(x), 2).flatten(2) for part in (block.key, block.value)]
        gathered = dense(block.query(x).flatten(2), *pooled).view(2, 8, *x.shape[2:])
        return block.gamma * block.out(gathered) + x

    def test_weights_have_the_pooled_size(self) -> None:
        block, (x,) = self.ready(), self.sample()
        assert isinstance(block, SAGANAttention)
        one = block.weights(x, at=(3, 6))
        assert one.shape == (2, 2, 3)
        assert_close(one.flatten(1), block.weights(x)[:, 3 * 7 + 6], **EXACT)
        assert_close(one.sum((1, 2)), torch.ones(2, dtype=torch.float64), **EXACT)


def test_training_normalises_the_largest_singular_value() -> None:
    block = SAGANAttention(16).double().train()
    for _ in range(50):
        block(torch.zeros(1, 16, 3, 5, dtype=torch.float64))
    for layer in (block.query, block.key, block.value):
        assert_close(torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item(), 1.0)


def test_without_spectral_norm_it_is_position_attention() -> None:
    block = randomise(SAGANAttention(16, spectral_norm=False))
    other = PositionAttention(16)
    other.load_state_dict(block.state_dict())
    x = torch.randn(2, 16, 5, 7)
    assert_close(block(x), other(x))


def test_inner_channels() -> None:
    paper, pooled = SAGANAttention(16), SAGANAttention(16, pooled=True)
    for block, inner in ((paper, 16), (pooled, 8)):
        assert block.query.out_channels == block.key.out_channels == 2
        assert block.value.out_channels == inner
    assert SAGANAttention(8).query.out_channels == 1
    assert pooled.out.weight.shape == (16, 8, 1, 1)


def test_too_few_channels_raise() -> None:
    with pytest.raises(ValueError, match="reduced"):
        SAGANAttention(4)


def test_an_ensemble_in_training_mode_is_refused_by_its_spectral_norm() -> None:
    members = [SAGANAttention(8).train() for _ in range(2)]
    parameters, buffers = stack_module_state(members)  # type: ignore[arg-type]
    x = torch.randn(2, 8, 3, 5)
    with pytest.raises(RuntimeError, match=r"^vmap over the weights of a spectral norm .* eval"):
        vmap(lambda p, b: functional_call(members[0], (p, b), x))(parameters, buffers)
