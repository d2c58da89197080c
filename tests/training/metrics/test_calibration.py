"""Calibration against torchmetrics, which keeps all pixels, and against numbers by hand."""

import math

import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from scenewise.training.metrics.calibration import Reliability, calibration_error, reliability


@pytest.mark.parametrize("seed", range(3))
def test_equals_torchmetrics(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 5, 13, 17, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 5, (2, 13, 17), generator=generator)
    target[:, :2] = 255
    confidence, labels = logits.softmax(1).max(1)
    expected = multiclass_calibration_error(
        logits.softmax(1), target, num_classes=5, n_bins=15, ignore_index=255
    )
    actual = calibration_error(reliability(confidence, labels, target))
    assert actual == pytest.approx(expected.item(), abs=1e-6)  # torchmetrics sums in float32


def test_hand_computed() -> None:
    confidence = torch.tensor([0.5, 0.5, 1.0, 1.0, 0.0, 0.9])
    labels = torch.tensor([0, 1, 2, 2, 0, 1])
    target = torch.tensor([0, 0, 2, 1, 1, 255])
    # 0.5: half right; 1.0: half right of two, off by 1 in all; 0.0: wrong, as it says.
    assert calibration_error(reliability(confidence, labels, target)) == pytest.approx(1 / 5)


def test_batches_do_not_change_it_and_the_state_does_not_grow() -> None:
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(60, generator=generator)
    labels = torch.randint(0, 3, (60,), generator=generator)
    target = torch.randint(0, 3, (60,), generator=generator)
    metric = Reliability()
    for start in range(0, 60, 7):
        part = slice(start, start + 7)
        metric.update(confidence[part], labels[part], target[part])
        assert metric.sums.numel() == 45
    torch.testing.assert_close(metric.compute(), reliability(confidence, labels, target))


def test_nothing_counted_is_nan() -> None:
    void = torch.tensor([255])
    assert math.isnan(calibration_error(reliability(torch.tensor([0.5]), void, void)))
