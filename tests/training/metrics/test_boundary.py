"""Boundary IoU against erosion of each class by itself, as the paper's code does it."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from scenewise.training.metrics.boundary import (
    BoundaryIoU,
    _boundary_distance,
    boundary,
    boundary_counts,
)


def eroded(mask: NDArray[np.bool_], times: int) -> NDArray[np.bool_]:
    """A 3 x 3 square, ``times`` times, nothing beyond the border."""
    for _ in range(times):
        framed = np.pad(mask, 1)
        height, width = mask.shape
        mask = np.logical_and.reduce(
            [framed[i : i + height, j : j + width] for i in range(3) for j in range(3)]
        )
    return mask


def outline(mask: NDArray[np.bool_], distance: int) -> NDArray[np.bool_]:
    return mask & ~eroded(mask, distance)


def plain_counts(
    labels: Tensor, target: Tensor, num_classes: int, distance: int
) -> list[list[int]]:
    given, truth = labels.numpy(), target.numpy()
    valid = truth != 255
    shared, either = [], []
    for k in range(num_classes):
        one = outline((truth == k) & valid, distance)
        other = outline((given == k) & valid, distance)
        shared.append(int((one & other).sum()))
        either.append(int((one | other).sum()))
    return [shared, either]


def blobs(seed: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 4, (height // 7 + 1, width // 9 + 1), generator=generator)
    target = coarse.repeat_interleave(7, 0).repeat_interleave(9, 1)[:height, :width].clone()
    labels = target.roll((1, 2), (0, 1))
    noise = torch.rand(height, width, generator=generator)
    target[noise < 0.02] = 255
    labels[noise > 0.97] = 2
    return labels, target


@pytest.mark.parametrize(("height", "width"), [(37, 53), (71, 31), (1, 40), (40, 1), (3, 3)])
@pytest.mark.parametrize("ratio", [0.02, 0.1])
def test_equals_erosion_class_by_class(height: int, width: int, ratio: float) -> None:
    labels, target = blobs(0, height, width)
    actual = boundary_counts(labels, target, 4, ratio=ratio)
    distance = _boundary_distance(height, width, ratio)
    assert actual.tolist() == plain_counts(labels, target, 4, distance)


def test_a_wide_boundary_is_everything() -> None:
    labels, _ = blobs(1, 20, 30)
    assert boundary(labels, 40).all()


def test_hand_computed() -> None:
    target = torch.zeros(7, 7, dtype=torch.int64)
    target[2:5, 2:5] = 1  # its outline is 8 pixels
    labels = torch.zeros(7, 7, dtype=torch.int64)
    labels[2:5, 1:4] = 1  # one column to the left
    shared, either = boundary_counts(labels, target, 2)
    assert shared[1] == 4  # two in the upper row, two in the lower; the middles differ
    assert either[1] == 12


def test_the_set_is_summed_before_dividing() -> None:
    metric = BoundaryIoU(4)
    total = torch.zeros(2, 4, dtype=torch.int64)
    for seed in range(3):
        labels, target = blobs(seed, 30, 41)
        metric.update(labels[None], target[None])
        total += boundary_counts(labels, target, 4)
    expected = np.nanmean(total[0].double() / total[1].double())
    assert metric.compute().item() == pytest.approx(expected)


def test_nothing_counted_is_nan() -> None:
    metric = BoundaryIoU(3)
    metric.update(torch.zeros(1, 4, 5, dtype=torch.int64), torch.full((1, 4, 5), 255))
    assert metric.compute().isnan()


def test_small_labels_do_not_overflow() -> None:
    target = torch.full((5, 6), 254, dtype=torch.uint8)
    shared, either = boundary_counts(target, target, 255)
    assert shared.sum() == either.sum() == shared[254] == 18
