"""``SegmentationMetrics``: every score of a validation or a test, one row a metric."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torchmetrics import Metric

from scenewise.classes import Classes
from scenewise.training.metrics.boundary import BoundaryIoU
from scenewise.training.metrics.calibration import Reliability, calibration_error
from scenewise.training.metrics.confusion import ConfusionMatrix, scores


class _Row(NamedTuple):
    metric: Callable[[Classes], Metric]
    inputs: tuple[str, ...]  # of the metric's update, in order
    scores: Callable[[Any, "SegmentationMetrics"], dict[str, float]]  # of what it computes
    while_fitting: bool  # whether validations between training epochs count it too


_ROWS = {
    "confusion": _Row(
        lambda classes: ConfusionMatrix(len(classes), classes.ignore_index),
        ("labels", "target"),
        lambda _, metrics: metrics.scores_of(metrics.matrix()),
        while_fitting=True,
    ),
    "boundary": _Row(
        lambda classes: BoundaryIoU(len(classes), classes.ignore_index),
        ("labels", "target"),
        lambda mean, _: {"boundary_miou": mean.item()},
        while_fitting=False,  # takes time
    ),
    "calibration": _Row(
        lambda classes: Reliability(classes.ignore_index),
        ("confidence", "labels", "target"),
        lambda sums, _: {"calibration_error": calibration_error(sums)},
        while_fitting=False,  # takes time
    ),
}


class SegmentationMetrics(nn.Module):
    """All metrics of a dataset, updated batch by batch and summed over processes.

    Args:
        classes: what the ids in labels and targets mean.

    Attributes:
        fitting: whether to leave out the metrics that take time.
        context_classes: ids of the classes whose mean IoU is the score ``context_iou``.
        categories: named groups of classes, scored as ``category_iou``.

    >>> import torch
    >>> metrics = SegmentationMetrics(Classes.numbered(2))
    >>> ids = torch.tensor([[[0, 1], [1, 1]]])
    >>> metrics.update(ids, ids, torch.ones(1, 2, 2))
    >>> scores = metrics.compute()
    >>> scores["miou"], scores["boundary_miou"], scores["calibration_error"]
    (1.0, 1.0, 0.0)
    """

    def __init__(self, classes: Classes) -> None:
        super().__init__()
        self.classes = classes
        self.fitting = False
        self.context_classes: Sequence[int] = ()
        self.categories: Mapping[str, Sequence[int]] | None = None
        self._metrics = {name: row.metric(classes) for name, row in _ROWS.items()}
        for name, metric in self._metrics.items():
            self.add_module(name, metric)  # moves to the device with this one

    def update(self, labels: Tensor, target: Tensor, confidence: Tensor) -> None:
        """Add one batch.

        Args:
            labels: class ids that the network gave, (B, H, W).
            target: true class ids or ``ignore_index``, (B, H, W).
            confidence: score of the given label, 0 to 1, (B, H, W).
        """
        batch = {"labels": labels, "target": target, "confidence": confidence}
        for row, metric in self._counted():
            metric.update(*(batch[name] for name in row.inputs))

    def compute(self) -> dict[str, float]:
        """Every score so far by its name."""
        found: dict[str, float] = {}
        for row, metric in self._counted():
            found |= row.scores(metric.compute(), self)
        return found

    def reset(self) -> None:
        """Start again from no image."""
        for metric in self._metrics.values():
            metric.reset()

    def matrix(self) -> Tensor:
        """The (K, K) confusion matrix so far, on the CPU."""
        size = len(self.classes)  # torchmetrics squeezes that of a single class
        counts: Tensor = self._metrics["confusion"].compute().cpu().view(size, size)
        return counts

    def scores_of(self, matrix: Tensor) -> dict[str, float]:
        """The scores of a (K, K) confusion matrix by their names."""
        return scores(matrix, self.classes, self.context_classes, self.categories)

    def _counted(self) -> list[tuple[_Row, Any]]:
        rows = zip(_ROWS.values(), self._metrics.values(), strict=True)
        return [(row, metric) for row, metric in rows if row.while_fitting or not self.fitting]
