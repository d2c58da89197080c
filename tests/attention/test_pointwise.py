import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from scenewise.attention.pointwise import PointwiseSpatial, offset_energies
from tests.attention.contract import EXACT, BlockLaw, randomise


def plain_energies(masks: Tensor, mask_size: tuple[int, int]) -> Tensor:
    """(B, h, w, h, w): the mask of the last two axes' pixel, at the offset of the first two's."""
    batch, _, height, width = masks.shape
    out = masks.new_zeros(batch, height, width, height, width)
    grid = masks.view(batch, *mask_size, height, width)
    for h in range(height):
        for w in range(width):
            for i in range(height):
                for j in range(width):
                    a, b = i - h + mask_size[0] // 2, j - w + mask_size[1] // 2
                    if 0 <= a < mask_size[0] and 0 <= b < mask_size[1]:
                        out[:, i, j, h, w] = grid[:, a, b, h, w]
    return out.flatten(3).flatten(1, 2)


class TestPointwiseSpatial(BlockLaw):
    tiny = (3, 4)

    def build(self, channels: int) -> PointwiseSpatial:
        return PointwiseSpatial(channels, size=(5, 7))

    def branch(self, block: PointwiseSpatial, x: Tensor, name: str) -> tuple[Tensor, Tensor]:
        reduced = block.get_submodule(name)(x)
        low_res = F.interpolate(reduced, (3, 4), mode="bilinear", align_corners=True)
        masks = block.get_submodule(f"{name}_masks")(low_res)
        return low_res, plain_energies(masks, (5, 7))

    def reference(self, block: PointwiseSpatial, x: Tensor) -> Tensor:
        low_res, energies = self.branch(block, x, "collect")
        # The published code: softmax over dim 1, the sources; columns are targets.
        collected = low_res.flatten(2) @ energies.softmax(1)
        low_res, energies = self.branch(block, x, "distribute")
        distributed = low_res.flatten(2) @ energies.transpose(1, 2).softmax(1)
        out = block.out(torch.cat([collected, distributed], dim=1).unflatten(2, (3, 4)))
        return F.interpolate(out, x.shape[2:], mode="bilinear", align_corners=True)

    def test_weights_are_the_mean_of_both_branches(self) -> None:
        block, (x,) = self.ready(), self.sample()
        assert isinstance(block, PointwiseSpatial)
        collect = self.branch(block, x, "collect")[1].softmax(1).transpose(1, 2)
        distribute = self.branch(block, x, "distribute")[1].softmax(2)
        weights = block.weights(x)
        assert_close(weights, (collect + distribute) / 2, **EXACT)
        assert_close(weights.sum(-1), torch.ones(2, 12, dtype=torch.float64), **EXACT)
        one = block.weights(x, at=(4, 2))
        assert_close(one, weights[:, 2 * 4 + 1].view(2, 3, 4), **EXACT)


@pytest.mark.parametrize(
    ("size", "at", "place"),
    [
        ((5, 7), (4, 6), (2, 3)),
        ((5, 7), (0, 0), (0, 0)),
        ((5, 7), (1, 2), (1, 1)),
        ((5, 7), (2, 3), (1, 2)),
        ((5, 7), (3, 4), (2, 2)),
        ((6, 8), (5, 7), (2, 3)),
        ((6, 8), (4, 6), (2, 3)),
    ],
)
def test_a_pixel_has_the_weights_of_the_nearest_shrunk_one(
    size: tuple[int, int], at: tuple[int, int], place: tuple[int, int]
) -> None:
    block = randomise(PointwiseSpatial(16, size=size).double()).eval()
    x = torch.randn(2, 16, *size).double()
    whole = block.weights(x).view(2, 3, 4, 3, 4)
    assert_close(block.weights(x, at=at), whole[:, place[0], place[1]], **EXACT)


def test_energies_equal_plain_loops() -> None:
    masks = torch.randn(2, 15, 3, 4)
    assert torch.equal(offset_energies(masks, (3, 5)), plain_energies(masks, (3, 5)))


def test_a_shift_of_the_input_shifts_the_energies() -> None:
    masks = torch.randn(1, 15, 1, 1).expand(1, 15, 4, 4)
    energies = offset_energies(masks, (3, 5)).view(4, 4, 4, 4)
    assert torch.equal(energies[1:, 1:, 1:, 1:], energies[:-1, :-1, :-1, :-1])


def test_a_larger_map_than_built_for_works() -> None:
    block = randomise(PointwiseSpatial(16, size=(5, 7))).eval()
    assert block(torch.randn(1, 16, 11, 14)).shape == (1, 16, 11, 14)


def test_published_size() -> None:
    # PSA of 2048 channels, 512 inside, masks of 59 x 59 for a map of 59 x 59, shrunk by 2.
    block = PointwiseSpatial(2048, size=(59, 59))
    assert block.mask_size == (59, 59)
    branch = 2048 * 512 + 1024 + 512 * 512 + 1024 + 512 * 59 * 59
    assert sum(p.numel() for p in block.parameters()) == 2 * branch + 1024 * 2048 + 4096
    assert isinstance(block.out[0], nn.Conv2d)
