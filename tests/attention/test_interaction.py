from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from scenewise.attention.interaction import InteractionAware, diversity_loss, pca_loss
from tests.attention.contract import EXACT, BlockLaw, _permute_positions, randomise


def ready(*arguments: Any) -> InteractionAware:
    block = randomise(InteractionAware(*arguments).double())
    assert isinstance(block, InteractionAware)
    return block


def row_by_row(block: InteractionAware, layers: list[Tensor]) -> tuple[Tensor, Tensor]:
    """A and M of layers (B, C, P) of one size, one map at a time."""
    maps = []
    for m in range(block.maps[0].shape[0]):
        energy = 0
        for w, b, layer in zip(block.maps, block.bias, layers, strict=True):
            energy = energy + ((w[m][:, None] * layer).sum(1) + b[m]) / len(layers)
        share = energy.exp() / energy.exp().sum(-1, keepdim=True)
        maps.append(share / share.square().sum(-1, keepdim=True).sqrt())
    attention = torch.stack(maps, dim=1)
    return attention, torch.stack(
        [(attention[:, m, None] * layers[-1]).sum(-1) for m in range(attention.shape[1])], dim=2
    )


class TestInteractionAware(BlockLaw):
    tiny = (5, 7)

    def build(self, channels: int) -> InteractionAware:
        return InteractionAware(channels, self.size)  # type: ignore[arg-type]

    def reference(self, block: InteractionAware, x: Tensor) -> Tensor:
        return row_by_row(block, [x.flatten(2)])[1].view_as(x)

    def test_the_order_of_the_positions_does_not_matter(self) -> None:
        block, (x,) = self.ready(), self.sample()
        assert_close(block(_permute_positions(x)), block(x), **EXACT)

    def test_rows_have_unit_length(self) -> None:
        block, (x,) = self.ready(), self.sample()
        assert isinstance(block, InteractionAware)
        weights = block.weights(x)
        assert weights.shape == (2, 35, 35)
        assert_close(weights.square().sum(-1), torch.ones(2, 35, dtype=torch.float64), **EXACT)
        assert_close(block.weights(x, at=(3, 4)).flatten(1), weights[:, 3 * 7 + 4], **EXACT)

    def test_the_bias_has_no_effect(self) -> None:
        block, (x,) = self.ready(), self.sample()
        before = block(x)
        block.bias[0].data.normal_()
        assert_close(block(x), before, **EXACT)


def test_a_pyramid_fuses_the_mean_of_its_layers() -> None:
    block = ready((3, 4), (5, 7))
    early, late = torch.randn(2, 3, 10, 14), torch.randn(2, 4, 5, 7)
    early, late = early.double(), late.double()
    pooled = F.avg_pool2d(early, 2)
    attention, expected = row_by_row(block, [pooled.flatten(2), late.flatten(2)])
    assert_close(block([early, late]), expected.view_as(late), **EXACT)
    assert_close(block.weights([early, late]), attention, **EXACT)


@pytest.mark.parametrize("count", [1, 3])
def test_a_row_of_a_pyramid_has_the_size_of_its_last_layer(count: int) -> None:
    block = ready((4,) * count, (2, 3))
    layers = [torch.randn(2, 4, 4, 6).double() for _ in range(count - 1)]
    layers.append(torch.randn(2, 4, 2, 3).double())
    one = block.weights(layers, at=(1, 2))
    assert one.shape == (2, 2, 3)
    assert_close(one.flatten(1), block.weights(layers)[:, 5], **EXACT)


def test_a_clip_stacks_the_positions_of_its_frames() -> None:
    block, clip = ready(4, (2, 3)), torch.randn(2, 3, 4, 2, 3).double()
    positions = clip.permute(0, 2, 1, 3, 4).flatten(2)
    attention, expected = row_by_row(block, [positions])
    assert_close(block(clip), expected.view(2, 4, 2, 3), **EXACT)
    assert_close(block.weights(clip), attention, **EXACT)
    one = block.weights(clip, at=(1, 2))
    assert one.shape == (2, 3, 2, 3)
    assert_close(one.flatten(1), attention[:, 5], **EXACT)
    assert_close(block(clip.flip(1)), block(clip), **EXACT)
    assert_close(block(clip[:, :1]), block(clip[:, 0]), **EXACT)


def test_a_pyramid_of_clips_is_fused_and_stacked() -> None:
    block = ready((3, 4), (2, 3))
    early, late = torch.randn(2, 3, 3, 4, 6).double(), torch.randn(2, 3, 4, 2, 3).double()
    out, penalties = block.with_penalties([early, late])
    assert_close(out, block([early, late]), **EXACT)
    assert set(penalties) == {"pca", "diversity"}
    sum(penalties.values()).backward()  # type: ignore[union-attr]
    assert all(w.grad is not None and w.grad.isfinite().all() for w in block.maps)


def test_pca_loss_by_hand() -> None:
    attention = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]])
    features = torch.tensor([[[1.0, 2.0], [0.0, 2.0]]])
    # A X = [[1, 2], [0.6, 2.8]]: 1 + 4 + 0.36 + 7.84 = 13.2 of 9; the rows' product is 0.6, twice.
    assert_close(pca_loss(attention, features), torch.tensor((0.72 - 13.2 / 9) / 4))


@pytest.mark.parametrize("count", [1, 3])
def test_penalties_are_those_of_the_maps_and_the_last_layer(count: int) -> None:
    block = ready((4,) * count, (2, 3))
    layers = [torch.randn(2, 4, 2, 3).double() for _ in range(count)]
    out, penalties = block.with_penalties(layers)
    flat = [layer.flatten(2) for layer in layers]
    attention, expected = row_by_row(block, flat)
    assert_close(out, expected.view_as(out), **EXACT)
    assert_close(penalties["pca"], pca_loss(attention, flat[-1].mT), **EXACT)
    alone = [(w @ x + b).softmax(-1) for w, b, x in zip(block.maps, block.bias, flat, strict=True)]
    assert_close(penalties["diversity"], diversity_loss(attention, alone), **EXACT)


def test_the_loss_does_not_depend_on_the_scale_of_features_and_is_a_mean_over_pairs() -> None:
    x = torch.randn(1, 3, 8).double()
    for factor in (1e-3, 1.0, 1e3):
        loss = pca_loss(torch.eye(3, dtype=torch.float64)[None], factor * x)
        assert loss.item() == pytest.approx(-1 / 9)


def test_the_loss_of_a_batch_is_the_mean_of_its_samples() -> None:
    attention, features = torch.randn(3, 2, 5).double(), torch.randn(3, 5, 4).double()
    alone = [pca_loss(attention[i : i + 1], features[i : i + 1]) for i in range(3)]
    assert_close(pca_loss(attention, features), torch.stack(alone).mean(), **EXACT)


def test_new_maps_have_energies_of_the_size_of_the_features() -> None:
    block = InteractionAware((100, 400), (5, 7))
    for maps, c in zip(block.maps, (100, 400), strict=True):
        assert maps.std().item() == pytest.approx(c**-0.5, rel=0.1)
    assert all(b.shape == (35, 1) and not b.any() for b in block.bias)


def test_the_best_orthonormal_maps_are_the_principal_directions() -> None:
    x = torch.randn(1, 7, 4, dtype=torch.float64)
    left, values, _ = torch.linalg.svd(x[0])
    best = pca_loss(left[:, :2].T[None], x)
    assert_close(best, -(values[:2].square().sum() / values.square().sum()) / 4)
    for _ in range(20):
        other = torch.linalg.qr(torch.randn(7, 2, dtype=torch.float64)).Q.T[None]
        assert pca_loss(other, x) > best


def test_minimising_the_loss_makes_maps_orthogonal_and_raises_their_energy() -> None:
    x = torch.randn(1, 7, 4)
    raw = torch.randn(1, 3, 7, requires_grad=True)
    optimiser = torch.optim.Adam([raw], lr=0.05)

    def energy_and_overlap() -> tuple[float, float]:
        a = F.normalize(raw.detach(), dim=-1)
        overlap = (a @ a.mT - torch.eye(3)).square().sum()
        return ((a @ x).square().sum() / x.square().sum()).item(), overlap.item()

    before = energy_and_overlap()
    for _ in range(200):
        optimiser.zero_grad()
        pca_loss(F.normalize(raw, dim=-1), x).backward()
        optimiser.step()
    after = energy_and_overlap()
    assert after[0] > before[0]
    assert after[1] < before[1]


def test_diversity_loss_by_hand() -> None:
    a = torch.tensor([[[1.0, 0.5]]])
    loss = diversity_loss(a, [torch.tensor([[[0.0, 0.5]]]), a])
    assert_close(loss, torch.tensor(0.75).sqrt())  # squares 1, 0, 0, 0
    one = torch.ones(1, 1, 2, requires_grad=True)
    diversity_loss(one, [torch.zeros(1, 1, 2)]).backward()
    assert one.grad is not None
    assert one.grad.isfinite().all()


def test_sizes_that_do_not_match_raise() -> None:
    block = InteractionAware((3, 4), (5, 7))
    with pytest.raises(ValueError, match=r"\[3, 4\] channels"):
        block(torch.zeros(1, 4, 5, 7))
    with pytest.raises(ValueError, match="5 x 7"):
        block([torch.zeros(1, 3, 5, 7), torch.zeros(1, 4, 7, 5)])
    with pytest.raises(ValueError, match="outside"):
        InteractionAware(4, (5, 7)).weights(torch.zeros(1, 4, 5, 7), at=(0, 7))
