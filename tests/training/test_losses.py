"""Losses against plain loops in float64 and numbers worked out by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scenewise.models import SegmenterOutput
from scenewise.training.losses import (
    OHEM,
    cross_entropy,
    ohem_cross_entropy,
    presence_loss,
    segmentation_loss,
)
from tests.attention.contract import peak_bytes

IGNORE = 255


def pixel_losses(logits: Tensor, target: Tensor) -> list[tuple[float, int]]:
    """(-log softmax, class) of each counted pixel, one pixel after another."""
    actual = []
    for b in range(target.shape[0]):
        for row in range(target.shape[1]):
            for column in range(target.shape[2]):
                truth = int(target[b, row, column])
                if truth == IGNORE:
                    continue
                scores = [float(v) for v in logits[b, :, row, column]]
                total = sum(math.exp(v) for v in scores)
                actual.append((-math.log(math.exp(scores[truth]) / total), truth))
    return actual


def example() -> tuple[Tensor, Tensor]:
    logits = torch.randn(2, 3, 5, 7, dtype=torch.float64) * 2
    target = torch.randint(0, 3, (2, 5, 7))
    target[torch.rand(2, 5, 7) < 0.3] = IGNORE
    return logits, target


def test_cross_entropy_is_the_mean_over_counted_pixels() -> None:
    logits, target = example()
    each = pixel_losses(logits, target)
    expected = sum(loss for loss, _ in each) / len(each)
    assert cross_entropy(logits, target).item() == pytest.approx(expected, abs=1e-12)


def test_class_weights_weigh_the_mean() -> None:
    logits, target = example()
    weights = [0.2, 3.0, 1.1]
    each = pixel_losses(logits, target)
    expected = sum(weights[k] * loss for loss, k in each) / sum(weights[k] for _, k in each)
    actual = cross_entropy(logits, target, class_weights=torch.tensor(weights, dtype=torch.float64))
    assert actual.item() == pytest.approx(expected, abs=1e-12)


def test_a_class_of_weight_zero_does_not_count() -> None:
    logits, target = example()
    actual = cross_entropy(logits, target, class_weights=torch.tensor([1.0, 1.0, 0.0]).double())
    expected = cross_entropy(logits, target.where(target != 2, IGNORE))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("loss", [cross_entropy, ohem_cross_entropy])
@pytest.mark.parametrize("weights", [None, torch.ones(3)])
def test_all_ignored_is_zero_with_zero_gradient(loss, weights) -> None:
    logits = torch.randn(2, 3, 5, 7, requires_grad=True)
    value = loss(logits, torch.full((2, 5, 7), IGNORE), class_weights=weights)
    value.backward()
    assert value.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_another_ignore_index() -> None:
    logits, target = example()
    moved = target.where(target != IGNORE, -1)
    torch.testing.assert_close(
        cross_entropy(logits, moved, ignore_index=-1), cross_entropy(logits, target)
    )


def test_half_precision_is_raised_to_float32() -> None:
    logits = torch.tensor([[[[60000.0]], [[-60000.0]]]]).half()  # the difference is beyond float16
    value = cross_entropy(logits, torch.ones(1, 1, 1, dtype=torch.int64))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(2 * logits[0, 0, 0, 0].item())
    with torch.autocast("cpu", torch.bfloat16):
        assert cross_entropy(logits.bfloat16(), torch.ones(1, 1, 1).long()).dtype == torch.float32


@pytest.mark.parametrize("min_kept", [0, 1, 13, 40, 10_000])
@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.9])
def test_ohem_keeps_the_hard_pixels(min_kept: int, threshold: float) -> None:
    logits, target = example()
    hardest = sorted((loss for loss, _ in pixel_losses(logits, target)), reverse=True)
    hard = [loss for loss in hardest if math.exp(-loss) <= threshold]
    kept = hard if len(hard) >= min_kept else hardest[:min_kept]
    actual = ohem_cross_entropy(logits, target, threshold=threshold, min_kept=min_kept)
    assert actual.item() == pytest.approx(sum(kept) / len(kept), abs=1e-12)


def test_ohem_gives_easy_pixels_no_gradient() -> None:
    logits = torch.zeros(1, 2, 1, 3, dtype=torch.float64)
    logits[0, 0, 0] = torch.tensor([5.0, 0.0, -1.0])
    logits.requires_grad_()
    ohem_cross_entropy(logits, torch.zeros(1, 1, 3).long(), min_kept=1).backward()
    moved = logits.grad.abs().sum((0, 1, 2)) > 0
    assert moved.tolist() == [False, True, True]


def side(logits: Tensor, **parts: dict[str, Tensor]) -> SimpleNamespace:
    return SimpleNamespace(logits=logits, **{"auxiliary": {}, "penalties": {}, **parts})


def test_loss_is_the_weighted_sum_of_its_parts() -> None:
    logits, target = example()
    position, channel = torch.randn_like(logits), torch.randn_like(logits)
    penalty = torch.tensor(0.25, dtype=torch.float64)
    output = side(
        logits, auxiliary={"position": position, "channel": channel}, penalties={"pca": penalty}
    )
    weights = {"position": 1.0, "channel": 0.4, "pca": 0.1, "not asked for": 7.0}
    loss = segmentation_loss(output, target, weights)
    parts = [cross_entropy(each, target) for each in (logits, position, channel)]
    torch.testing.assert_close(loss.total, parts[0] + parts[1] + 0.4 * parts[2] + 0.025)
    assert {name: value.item() for name, value in loss.parts.items()} == {
        "main": parts[0].item(),
        "position": parts[1].item(),
        "channel": parts[2].item(),
        "pca": 0.25,
    }


def test_ohem_is_for_the_main_logits_alone() -> None:
    logits, target = example()
    ohem = OHEM(threshold=0.3, min_kept=2)
    loss = segmentation_loss(side(logits, auxiliary={"fcn": logits}), target, {"fcn": 1}, ohem=ohem)
    torch.testing.assert_close(loss.parts["fcn"], cross_entropy(logits, target))
    hard = ohem_cross_entropy(logits, target, threshold=0.3, min_kept=2)
    torch.testing.assert_close(loss.parts["main"], hard)
    assert hard > loss.parts["fcn"] * 1.1


def test_presence_is_binary_over_the_classes_that_are_shown() -> None:
    """Image 0 shows classes 0 and 2, image 1 shows none."""
    logits = torch.randn(2, 3, dtype=torch.float64)
    target = torch.full((2, 5, 7), IGNORE)
    target[0, 1, 2], target[0, 4, 6] = 0, 2
    shown = [[True, False, True], [False, False, False]]
    losses = [
        math.log(1 + math.exp(-float(logits[b, k]) if shown[b][k] else float(logits[b, k])))
        for b in range(2)
        for k in range(3)
    ]
    assert presence_loss(logits, target).item() == pytest.approx(sum(losses) / 6)
    assert presence_loss(logits.half(), target).dtype == torch.float32


def test_side_logits_of_pictures_go_to_the_presence_loss() -> None:
    logits, target = torch.zeros(2, 3, 5, 7), torch.zeros(2, 5, 7, dtype=torch.int64)
    output = SimpleNamespace(logits=logits, auxiliary={"presence": torch.ones(2, 3)}, penalties={})
    loss = segmentation_loss(output, target, {"presence": 0.2})
    expected = presence_loss(torch.ones(2, 3), target)
    assert loss.parts["presence"] == expected
    assert loss.total.item() == pytest.approx(math.log(3) + 0.2 * expected.item())


def test_a_part_without_a_weight_is_named() -> None:
    logits, target = example()
    with pytest.raises(ValueError, match="'fcn'"):
        segmentation_loss(side(logits, auxiliary={"fcn": logits}), target, {"aux": 0.4})


@pytest.mark.parametrize("ohem", [None, OHEM(0.7, 20)])
def test_enlarging_inside_the_loss_changes_nothing(ohem: OHEM | None) -> None:
    small = [torch.randn(2, 5, 4, 7, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    target = torch.randint(5, (2, 13, 29))
    target[:, :3] = 255

    def upsample(scores: Tensor) -> Tensor:
        return F.interpolate(scores, (16, 32), mode="bilinear", align_corners=True)[..., :13, :29]

    actual = []
    for inside in (False, True):
        scores = small if inside else [upsample(x) for x in small]
        output = SegmenterOutput(scores[0], {"side": scores[1]}, {})
        loss = segmentation_loss(
            output, target, {"side": 0.4}, ohem=ohem, upsample=upsample if inside else None
        )
        actual.append((loss.total, *torch.autograd.grad(loss.total, small)))
    torch.testing.assert_close(actual[1], actual[0])


def test_enlarging_inside_the_loss_keeps_one_enlarged_score() -> None:
    small = [torch.randn(1, 8, 8, 8, requires_grad=True) for _ in range(4)]
    target = torch.zeros(1, 256, 256, dtype=torch.int64)

    def upsample(scores: Tensor) -> Tensor:
        return F.interpolate(scores, (256, 256), mode="bilinear")

    def step(inside: bool) -> None:
        scores = small if inside else [upsample(x) for x in small]
        output = SegmenterOutput(scores[0], dict(zip("abc", scores[1:], strict=True)), {})
        weights = dict.fromkeys("abc", 1.0)
        given = upsample if inside else None
        segmentation_loss(output, target, weights, upsample=given).total.backward()

    upsampled = 4 * 8 * 256 * 256
    assert peak_bytes(lambda: step(False)) > 8 * upsampled  # scores and their log-softmax
    assert peak_bytes(lambda: step(True)) < 5 * upsampled
