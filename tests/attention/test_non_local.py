from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from scenewise.attention.non_local import NonLocal, dot_product_mix, rectified_sum_mix
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
    """A 1 x 1 convolution as a matrix product on (B, C, N)."""
    out = torch.einsum("oc,bcn->bon", layer.weight.flatten(1), x)
    return out if layer.bias is None else out + layer.bias[:, None]


def pairwise(block: NonLocal, query: Tensor, key: Tensor) -> Tensor:
    """f / C, dense: (B, Nq, Nk)."""
    energy = torch.einsum("bdi,bdj->bij", query, key)
    if block.kind == "dot_product":
        return energy / key.shape[2]
    if block.kind == "concatenation":
        assert block.pair is not None
        ones = torch.ones(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
        both = torch.cat([query[..., None] * ones, key[..., None, :] * ones], dim=1)
        return torch.einsum("c,bcij->bij", block.pair.weight[0], both).relu() / key.shape[2]
    return (energy * block.scale).softmax(-1)


def dense(block: NonLocal, x: Tensor, pooled_first: Tensor, pool: Any = None) -> Tensor:
    """The block with the dense attention map; keys and values come from ``pooled_first``."""
    flat, source = x.flatten(2), pooled_first.flatten(2)
    gaussian = block.kind == "gaussian"
    query = flat if gaussian else conv1(block.theta, flat)
    key = source if gaussian else conv1(block.phi, source)
    value = conv1(block.g, source)
    if pool is not None:
        key, value = pool(key), pool(value)
    y = torch.einsum("bij,bcj->bci", pairwise(block, query, key), value)
    n = block.norm
    z = F.batch_norm(conv1(block.out, y), n.running_mean, n.running_var, n.weight, n.bias, eps=1e-5)
    return z.view_as(x) + x


class NonLocalLaw(BlockLaw, StartsAsIdentity, PermutesPositions, NeverHoldsTheMap):
    kind: Any = "embedded_gaussian"

    def build(self, channels: int) -> NonLocal:
        return NonLocal(channels, kind=self.kind)

    def reference(self, block: NonLocal, x: Tensor) -> Tensor:
        return dense(block, x, x)

    def test_weights_are_the_pairwise_function(self) -> None:
        block, (x,) = self.ready(), self.sample()
        assert isinstance(block, NonLocal)
        query, key = block.theta(x).flatten(2), block.phi(x).flatten(2)
        weights = block.weights(x)
        assert_close(weights, pairwise(block, query, key), **EXACT)
        assert_close(block.weights(x, at=(3, 6)).flatten(1), weights[:, 3 * 7 + 6], **EXACT)


class TestEmbeddedGaussian(NonLocalLaw, WeighsPositions):
    compiler = "aot_eager"

    def test_scale_is_one_over_the_root_of_the_inner_channels(self) -> None:
        assert NonLocal(16).scale == 8**-0.5
        assert NonLocal(16, use_scale=False).scale == 1.0
        assert NonLocal(16, kind="gaussian").scale == 1.0


class TestGaussian(NonLocalLaw, WeighsPositions):
    kind = "gaussian"


class TestDotProduct(NonLocalLaw):
    kind = "dot_product"


class TestConcatenation(NonLocalLaw):
    kind = "concatenation"


class TestClipPooledFirst(BlockLaw, StartsAsIdentity):
    """FAIR's variant on a clip: the input is pooled in space, not in time."""

    size = (3, 5, 7)
    axes = "B, C, T, H, W"
    tiny = (1, 2, 3)

    def build(self, channels: int) -> NonLocal:
        return NonLocal(channels, dims=3, subsample=True)

    def reference(self, block: NonLocal, x: Tensor) -> Tensor:
        return dense(block, x, F.max_pool3d(x, (1, 2, 2)))

    def test_one_position_of_a_clip_attends_to_the_pooled_clip(self) -> None:
        block, (x,) = self.ready(), self.sample()
        assert isinstance(block, NonLocal)
        one = block.weights(x, at=(2, 4, 1))
        assert one.shape == (2, 3, 2, 3)
        assert_close(one.flatten(1), block.weights(x)[:, (2 * 5 + 4) * 7 + 1], **EXACT)
        assert_close(one.sum((1, 2, 3)), torch.ones(2, dtype=torch.float64), **EXACT)

    def test_a_position_attends_to_other_frames(self) -> None:
        block, (x,) = self.ready(), self.sample()
        changed = x.clone()
        changed[:, :, 2] += 1
        assert (block(changed) - block(x))[:, :, 0].abs().max() > 1e-4


class TestSequencePooledLast(BlockLaw, StartsAsIdentity):
    """mmcv's variant on a sequence: keys and values are pooled after their convolutions."""

    size = (7,)
    axes = "B, C, T"
    tiny = (5,)

    def build(self, channels: int) -> NonLocal:
        return NonLocal(channels, dims=1, subsample=True, variant="mmcv")

    def reference(self, block: NonLocal, x: Tensor) -> Tensor:
        return dense(block, x, x, lambda part: F.max_pool1d(part, 2))


def test_images_are_pooled_by_2_along_both_axes() -> None:
    block = randomise(NonLocal(16, subsample=True).double()).eval()
    x = torch.randn(2, 16, 5, 7, dtype=torch.float64)
    assert isinstance(block, NonLocal)
    assert_close(block(x), dense(block, x, F.max_pool2d(x, 2)), **EXACT)


def test_rectified_sum_equals_all_pairs() -> None:
    a, b = torch.randn(2, 11, dtype=torch.float64), torch.randn(2, 7, dtype=torch.float64)
    v = torch.randn(2, 7, 3, dtype=torch.float64)
    pairs = (a[:, :, None] + b[:, None]).relu() / 7
    assert_close(rectified_sum_mix(a, b, v), pairs @ v, **EXACT)


def test_rectified_sum_of_all_negative_and_all_positive_pairs() -> None:
    b, v = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[[1.0], [1.0], [4.0]]])
    out = rectified_sum_mix(torch.tensor([[-3.0, 0.0, -2.5]]), b, v)
    assert_close(out, torch.tensor([[[0.0], [15 / 3], [0.5 * 4 / 3]]]))


def test_dot_product_sums_do_not_overflow_half_precision() -> None:
    ones = torch.full((1, 4096, 4), 8.0, dtype=torch.float16)
    assert_close(dot_product_mix(ones[:, :1], ones, ones), torch.full_like(ones[:, :1], 2048.0))


def test_one_number_for_each_pair() -> None:
    pair = NonLocal(16, kind="concatenation").pair
    assert pair is not None
    assert pair.weight.shape == (1, 16)
    assert pair.bias is None


def test_at_least_one_inner_channel_remains() -> None:
    assert NonLocal(1).g.out_channels == NonLocal(3, reduction=8).g.out_channels == 1
    assert NonLocal(6, reduction=3).g.out_channels == 2


def test_initial_weights_are_small_and_biases_zero() -> None:
    block = NonLocal(64)
    for layer in (block.theta, block.phi, block.g, block.out):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert layer.weight.mean().abs() < 0.002
        assert layer.bias.abs().max() == 0


def test_published_parameter_counts() -> None:
    # The two variants differ by the bias of W_z.
    official = sum(p.numel() for p in NonLocal(512).parameters())
    assert official == 3 * (512 * 256 + 256) + 256 * 512 + 512 + 2 * 512
    assert official - sum(p.numel() for p in NonLocal(512, variant="mmcv").parameters()) == 512


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"dims": 4}, "dims"), ({"kind": "x"}, "kind"), ({"variant": "x"}, "fair")],
)
def test_invalid_arguments_raise(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NonLocal(8, **arguments)


def test_a_position_outside_raises() -> None:
    block = randomise(NonLocal(8, dims=1))
    with pytest.raises(ValueError, match="outside"):
        block.weights(torch.zeros(1, 8, 5), at=(5,))
    with pytest.raises(ValueError, match="outside"):
        block.weights(torch.zeros(1, 8, 5), at=(1, 1))
