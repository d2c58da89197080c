"""Thresholds: the rule against a plain loop, its laws, and what is refused."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.models.thresholds import check_thresholds, label_by_thresholds

NONE = math.nan
CLASSES = Classes.numbered(3)


def random_probabilities(classes: int, pixels: int = 500) -> Tensor:
    generator = torch.Generator().manual_seed(classes)
    return torch.randn(classes, pixels, generator=generator).mul(2).softmax(0)


def slow(p: list[float], thresholds: list[float]) -> int:
    """The rule in words, for one pixel."""
    reached = [k for k, t in enumerate(thresholds) if p[k] >= t]  # false for NaN
    free = [k for k, t in enumerate(thresholds) if math.isnan(t)]
    if reached or not free:
        candidates = reached or range(len(p))
        return max(candidates, key=lambda k: p[k] / thresholds[k])
    return max(free, key=lambda k: p[k])


@pytest.mark.parametrize(
    "thresholds",
    [
        [NONE, 0.3, NONE, NONE],
        [0.2, 0.3, NONE, 0.9],
        [0.35, 0.3, 0.25, 0.4],
        [0.9, 0.8, 0.95, 0.99],
        [NONE] * 4,
    ],
)
def test_the_rule_is_that_of_a_plain_loop(thresholds: list[float]) -> None:
    p = random_probabilities(4).double()
    labels, confidence = label_by_thresholds(p.view(4, 20, 25), torch.tensor(thresholds))
    values = torch.tensor(thresholds).tolist()
    assert labels.flatten().tolist() == [slow(column, values) for column in p.T.tolist()]
    assert torch.equal(confidence.flatten(), p[labels.flatten(), torch.arange(500)])


@pytest.mark.parametrize("threshold", [0.001, 0.3, 0.5, 0.7, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_two_classes_a_pixel_is_positive_exactly_from_the_threshold_on(
    threshold: float, dtype: torch.dtype
) -> None:
    limit = torch.tensor(threshold, dtype=dtype)
    steps = [np.nextafter(limit.numpy(), limit.numpy().dtype.type(end)) for end in (0, 1)]
    near = torch.tensor([steps[0], limit.item(), steps[1]], dtype=dtype)
    p = torch.cat([torch.linspace(0, 1, 1001, dtype=dtype), near])
    for positive in (0, 1):
        both = torch.stack([p, 1 - p] if positive == 0 else [1 - p, p])
        thresholds = torch.full((2,), NONE, dtype=torch.float64)
        thresholds[positive] = threshold
        labels, _ = label_by_thresholds(both, thresholds)
        assert torch.equal(labels == positive, p >= threshold)


def test_a_lower_threshold_only_adds_pixels_and_none_is_below() -> None:
    p = random_probabilities(5)
    before = torch.zeros(500, dtype=torch.bool)
    for value in (0.9, 0.6, 0.4, 0.2, 0.05):
        labels, confidence = label_by_thresholds(p, torch.tensor([NONE, 0.3, value, NONE, NONE]))
        won = labels == 2
        assert (won | ~before).all()
        assert (confidence[won] >= value).all()
        before = won
    assert 0 < before.sum() < 500


def test_equal_thresholds_of_all_classes_and_none_give_the_largest() -> None:
    p = random_probabilities(3)
    for value in (NONE, 0.3, 0.5):
        assert torch.equal(label_by_thresholds(p, torch.full((3,), value))[0], p.argmax(0))


def test_a_threshold_that_rounds_to_zero_wins_without_nan() -> None:
    p = torch.tensor([[1.0, 0.5], [0.0, 0.5]])
    tiny = torch.tensor([NONE, 1e-60], dtype=torch.float64)
    assert label_by_thresholds(p, tiny)[0].tolist() == [0, 1]


@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5, math.nan, math.inf, "high", None, True])
def test_values_outside_the_open_interval_are_refused(value: object) -> None:
    with pytest.raises(UserError, match=r"of class 'class_1' is .*; give a number above 0 and"):
        check_thresholds({"class_1": value}, CLASSES)


def test_an_unknown_class_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown class 'clas_1' .* did you mean 'class_1'"):
        check_thresholds({"clas_1": 0.5}, CLASSES)
    assert check_thresholds({"class_2": np.float32(0.25)}, CLASSES) == {"class_2": 0.25}
