from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from scenewise.attention.ocr import ObjectContextual, region_features
from tests.attention.contract import (
    EXACT,
    BlockLaw,
    PermutesPositions,
    WeighsPositions,
    dropouts,
    randomise,
    slopes,
)


def plain(block: ObjectContextual, x: Tensor, logits: Tensor) -> Tensor:
    """One class and one pixel at a time."""
    share = logits.flatten(2).exp()
    share = share / share.sum(2, keepdim=True)
    regions = torch.stack([(k[:, None] * x.flatten(2)).sum(2) for k in share.unbind(1)], dim=2)
    query, key = block.query(x).flatten(2), block.key(regions[..., None])[..., 0]
    value = block.value(regions[..., None])[..., 0]
    columns = []
    for i in range(query.shape[2]):
        energy = (query[:, :, i, None] * key).sum(1) / query.shape[1] ** 0.5
        weights = energy.exp() / energy.exp().sum(1, keepdim=True)
        columns.append((weights[:, None] * value).sum(2))
    context = block.out(torch.stack(columns, dim=2).unflatten(2, x.shape[2:]))
    return block.mix(torch.cat([context, x], dim=1))


class TestObjectContextual(BlockLaw, PermutesPositions, WeighsPositions):
    def build(self, channels: int) -> ObjectContextual:
        return ObjectContextual(channels)

    def inputs(self, batch: int, channels: int, size: tuple[int, ...]) -> tuple[Tensor, ...]:
        shapes = (batch, channels, *size), (batch, 3, *size)
        return tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)

    def reference(self, block: Any, *inputs: Tensor) -> Tensor:
        return plain(block, *inputs)

    def test_weights_of_the_regions_sum_to_1(self) -> None:
        block, inputs = self.ready(), self.sample()
        assert isinstance(block, ObjectContextual)
        shares = block.region_weights(*inputs)
        assert shares.shape == (2, 35, 3)
        assert_close(shares.sum(-1), torch.ones(2, 35, dtype=torch.float64), **EXACT)
        assert_close(block.region_weights(*inputs, at=(2, 3)), shares[:, 17], **EXACT)

    def test_the_order_of_the_classes_does_not_matter(self) -> None:
        block, (x, logits) = self.ready(), self.sample()
        assert_close(block(x, logits[:, [2, 0, 1]]), block(x, logits), **EXACT)


def test_a_certain_region_is_the_mean_of_its_pixels() -> None:
    x = torch.tensor([[[[1.0, 3.0, 8.0]], [[2.0, 4.0, 9.0]]]])
    logits = torch.tensor([[[[0.0, 0.0, -1e4]], [[-1e4, -1e4, 0.0]]]])
    assert_close(region_features(x, logits), torch.tensor([[[2.0, 3.0], [8.0, 9.0]]]))


def test_mmseg_variant_and_its_published_size() -> None:
    block = ObjectContextual(512, variant="mmseg")
    # Its OCRHead of 19 classes without the 3x3 in front and the classifier:
    # key and query 2 x (512 x 256 + 256 x 256), value, out, bottleneck, and their norms.
    weights = 2 * (512 * 256 + 256 * 256) + 2 * 512 * 256 + 512 * 1024
    assert sum(p.numel() for p in block.parameters()) == weights + 2 * (5 * 256 + 2 * 512)
    block = randomise(ObjectContextual(16, variant="mmseg").double()).eval()
    x, logits = torch.randn(2, 16, 5, 7).double(), torch.randn(2, 3, 5, 7).double()
    assert_close(block(x, logits), plain(block, x, logits), **EXACT)


def test_every_convolution_of_openseg_has_a_bias_and_none_of_mmseg() -> None:
    for variant in ("openseg", "mmseg"):
        block = ObjectContextual(16, variant=variant)  # type: ignore[arg-type]
        convolutions = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
        assert len(convolutions) == 7
        assert all((m.bias is not None) == (variant == "openseg") for m in convolutions)


def test_weights_are_those_of_the_dense_map_of_regions() -> None:
    block = randomise(ObjectContextual(16).double()).eval()
    x, logits = torch.randn(2, 16, 5, 7).double(), torch.randn(2, 3, 5, 7).double()
    regions = region_features(x, logits).transpose(1, 2)[..., None]
    query, key = block.query(x).flatten(2), block.key(regions)[..., 0]
    expected = (torch.einsum("bdi,bdk->bik", query, key) / 8**0.5).softmax(-1)
    assert_close(block.region_weights(x, logits), expected, **EXACT)


def test_published_slopes_and_dropouts() -> None:
    block, mmseg = ObjectContextual(16), ObjectContextual(16, variant="mmseg")
    assert slopes(block) == [0.01] * 7
    assert slopes(mmseg) == [0.0] * 7
    assert dropouts(block) == [0.05]
    assert dropouts(ObjectContextual(16, dropout=0.3)) == [0.3]
    assert dropouts(mmseg) == []


def test_invalid_arguments_raise() -> None:
    with pytest.raises(ValueError, match="mmseg"):
        ObjectContextual(16, variant="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"class logits \(5, 6\)"):
        ObjectContextual(16)(torch.zeros(1, 16, 5, 7), torch.zeros(1, 3, 5, 6))
