"""Expected calibration error: whether the confidence of a network is its accuracy.

C. Guo and others, "On Calibration of Modern Neural Networks", ICML 2017: the mean distance between
confidence and accuracy over 15 equal bins of the confidence, each weighted by its pixels.
"""

import torch
from torch import Tensor
from torchmetrics import Metric

_BINS = 15  # as in the paper


def reliability(
    confidence: Tensor, labels: Tensor, target: Tensor, ignore_index: int = 255
) -> Tensor:
    """Pixels, sum of confidences and number of correct labels in each bin of the confidence.

    Args:
        confidence: score of the given label, 0..1, any shape.
        labels: class ids that a network gave, of that shape.
        target: true class ids or ``ignore_index``, of that shape.
        ignore_index: pixels of this true id do not count.

    Returns:
        (3, 15) float64; bin k holds the confidences above k/15 and up to (k+1)/15.

    >>> sums = reliability(torch.tensor([0.9, 0.92]), torch.tensor([1, 1]), torch.tensor([1, 0]))
    >>> sums[:, 13].tolist()
    [2.0, 1.81..., 1.0]
    """
    counted = target != ignore_index  # boolean indexing below flattens
    sure, correct = confidence[counted].double(), (labels == target)[counted].double()
    bins = (sure * _BINS).ceil().clamp(1, _BINS).long() - 1  # bin k is (k/15, (k+1)/15]
    zeros = torch.zeros(_BINS, dtype=torch.float64, device=sure.device)
    return torch.stack(
        [zeros.index_add(0, bins, weight) for weight in (torch.ones_like(sure), sure, correct)]
    )


def calibration_error(sums: Tensor) -> float:
    """Expected calibration error of the sums of :func:`reliability`; nan without pixels.

    >>> sums = torch.zeros(3, 15)
    >>> sums[:, 13] = torch.tensor([2.0, 1.82, 1.0])
    >>> round(calibration_error(sums), 4)
    0.41
    """
    pixels, sure, correct = sums.to("cpu", torch.float64)
    error: Tensor = (sure - correct).abs().sum() / pixels.sum()
    return error.item()


class Reliability(Metric):
    """:func:`reliability` of a whole split, updated batch by batch and summed over processes.

    The calibration error of torchmetrics keeps every pixel; this keeps 45 numbers.

    >>> metric = Reliability()
    >>> metric.update(torch.tensor([0.75]), torch.tensor([1]), torch.tensor([1]))
    >>> calibration_error(metric.compute())
    0.25
    """

    full_state_update = False
    sums: Tensor

    def __init__(self, ignore_index: int = 255) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        zeros = torch.zeros(3, _BINS, dtype=torch.float64)  # pixels, confidences, correct
        self.add_state("sums", zeros, dist_reduce_fx="sum")

    def update(self, confidence: Tensor, labels: Tensor, target: Tensor) -> None:
        """Add the pixels of one batch."""
        self.sums += reliability(confidence, labels, target, self.ignore_index)

    def compute(self) -> Tensor:
        """The (3, 15) sums so far."""
        return self.sums
