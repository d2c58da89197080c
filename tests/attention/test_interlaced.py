import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from scenewise.attention.interlaced import GroupAttention, InterlacedSparse
from tests.attention.contract import (
    EXACT,
    BlockLaw,
    NeverHoldsTheMap,
    assert_commutes,
    dropouts,
    randomise,
    slopes,
)


def masked_weights(part: GroupAttention, x: Tensor, group: Tensor) -> Tensor:
    """Dense attention with the mask "same group"; ``group`` is (H, W)."""
    energy = torch.einsum("bdi,bdj->bij", part.query(x).flatten(2), part.key(x).flatten(2))
    same = group.flatten()[:, None] == group.flatten()
    energy = (energy / part.query(x).shape[1] ** 0.5).masked_fill(~same, float("-inf"))
    return energy.softmax(-1)


def masked(part: GroupAttention, x: Tensor, group: Tensor) -> Tensor:
    value = part.value(x).flatten(2)
    gathered = torch.einsum("bij,bcj->bci", masked_weights(part, x, group), value)
    return part.out(gathered.view_as(x))


def groups(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Far and near groups of tiles of 2 x 3."""
    row, column = torch.arange(height)[:, None], torch.arange(width)
    return row % 2 * 3 + column % 3, row // 2 * 100 + column // 3


class TestInterlacedSparse(BlockLaw, NeverHoldsTheMap):
    def build(self, channels: int) -> InterlacedSparse:
        return InterlacedSparse(channels, tile=(2, 3))

    def reference(self, block: InterlacedSparse, x: Tensor) -> Tensor:
        padded = F.pad(x, (1, 1, 0, 1))  # 5 x 7 to 6 x 9, the odd row at the end
        far, near = groups(6, 9)
        y = masked(block.near, masked(block.far, padded, far), near)[:, :, :5, 1:8]
        return block.mix(torch.cat([x, y], dim=1))

    def test_commutes_with_a_shift_by_whole_tiles(self) -> None:
        block, x = self.ready(), torch.randn(2, 16, 6, 9).double()
        assert_commutes(block, lambda t: t.roll((2, 3), (2, 3)), x)

    def test_weights_are_the_product_of_both_maps(self) -> None:
        block, x = self.ready(), torch.randn(2, 16, 6, 9).double()
        assert isinstance(block, InterlacedSparse)
        far, near = groups(6, 9)
        first = masked_weights(block.far, x, far)
        second = masked_weights(block.near, masked(block.far, x, far), near)
        for row, column in [(0, 0), (3, 7), (5, 8)]:
            one = block.weights(x, at=(row, column))
            assert_close(one.flatten(1), (second @ first)[:, row * 9 + column], **EXACT)
            assert (one > 0).all()
            assert_close(one.sum((1, 2)), torch.ones(2, dtype=torch.float64), **EXACT)

    def test_padding_receives_weight(self) -> None:
        block, (x,) = self.ready(), self.sample()
        assert isinstance(block, InterlacedSparse)
        one = block.weights(x, at=(4, 6))
        assert one.shape == (2, 5, 7)
        assert (one.sum((1, 2)) < 1).all()


def test_mmseg_variant_and_its_published_size() -> None:
    block = randomise(InterlacedSparse(16, tile=(2, 3), variant="mmseg").double()).eval()
    x = torch.randn(2, 16, 6, 9).double()
    far, near = groups(6, 9)
    y = masked(block.near, masked(block.far, x, far), near)
    assert_close(block(x), block.mix(torch.cat([y, x], dim=1)), **EXACT)
    # ISAHead with 512 channels, 256 of query and key, without its 3x3 in front and classifier.
    relation = 2 * (512 * 256 + 256 * 256 + 4 * 256) + 512 * 512 + 512 + 512 * 512 + 2 * 512
    count = sum(p.numel() for p in InterlacedSparse(512, variant="mmseg").parameters())
    assert count == 2 * relation + 1024 * 512 + 2 * 512


def test_padding_is_halved_with_the_odd_row_at_the_end() -> None:
    block = randomise(InterlacedSparse(16, tile=(4, 8)).double()).eval()
    x = torch.randn(2, 16, 5, 5).double()
    whole = F.pad(x, (1, 2, 1, 2))  # to 8 x 8
    assert_close(block.weights(x, at=(4, 3)), block.weights(whole, at=(5, 4))[:, 1:6, 1:6], **EXACT)
    inside = block(whole)[:, :, 1:6, 1:6]
    assert_close(block(x), inside, **EXACT)


def test_published_slopes_dropouts_and_tiles() -> None:
    block, mmseg = InterlacedSparse(16), InterlacedSparse(16, variant="mmseg")
    assert slopes(block) == [0.01] * 11
    assert slopes(mmseg) == [0.0] * 11
    assert dropouts(block) == [0.05]
    assert dropouts(InterlacedSparse(16, dropout=0.3)) == [0.3]
    assert dropouts(mmseg) == []
    assert block.tile == mmseg.tile == (8, 8)
    for part in ("far", "near"):
        assert block.get_submodule(part).value.bias is None
        assert mmseg.get_submodule(part).value.bias is not None


def test_invalid_arguments_raise() -> None:
    with pytest.raises(ValueError, match="mmseg"):
        InterlacedSparse(16, variant="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="outside"):
        InterlacedSparse(16).weights(torch.zeros(1, 16, 5, 7), at=(5, 0))
