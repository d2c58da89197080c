"""Scores of a segmentation, all from one confusion matrix over a whole split.

Legend: K classes; ``matrix[t, p]`` is the number of pixels of class t that were labelled p.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from rich.table import Table
from torch import Tensor
from torchmetrics import Metric

from scenewise.classes import Classes


def confusion_matrix(
    labels: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255
) -> Tensor:
    """Counts of (true class, given label) over the pixels that are not ignored.

    Args:
        labels: class ids that a network gave, any shape.
        target: true class ids or ``ignore_index``, of the same shape.
        num_classes: K.
        ignore_index: pixels of this true id do not count.

    Returns:
        (K, K) int64; rows are true classes, columns are labels.

    Raises:
        ValueError: the shapes differ, or an id is outside 0..K-1.

    >>> confusion_matrix(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 255]), 2)
    tensor([[1, 1],
            [0, 1]])
    """
    if labels.shape != target.shape:
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} for a target of {tuple(target.shape)}"
        )
    truth, given = target.int(), labels.int()  # half the bytes of int64
    counted = truth != ignore_index
    cells = torch.where(counted, truth * num_classes + given + 1, 0)  # cell 0 is the ignored
    counts = torch.bincount(cells.flatten(), minlength=num_classes**2 + 1)
    largest = torch.where(counted, given, 0).max() if given.numel() else 0
    if len(counts) > num_classes**2 + 1 or largest >= num_classes:
        raise ValueError(f"a class id is outside 0..{num_classes - 1}")
    return counts[1:].reshape(num_classes, num_classes)  # (K K,) -> (K, K)


def iou(matrix: Tensor) -> Tensor:
    """Intersection over union of each class: n_tt / (sum_p n_tp + sum_t n_tp - n_tt).

    Returns:
        (K,) float64 on the CPU; nan for a class that is neither in the target nor in the labels.

    >>> iou(torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
    tensor([0.7500, 0.8000,    nan], dtype=torch.float64)
    """
    counts = _exact(matrix)
    hit = counts.diagonal()  # (K,)
    return hit / (counts.sum(0) + counts.sum(1) - hit)  # intersection / union


def mean_iou(matrix: Tensor, classes: Sequence[int] | None = None) -> float:
    """Mean of :func:`iou` over the classes that occur; nan when none does.

    Args:
        matrix: (K, K) counts.
        classes: take the mean over these class ids only.

    >>> round(mean_iou(torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]])), 4)
    0.775
    """
    each = iou(matrix)
    return each[list(classes) if classes is not None else slice(None)].nanmean().item()


def pixel_accuracy(matrix: Tensor) -> float:
    """Fraction of the counted pixels with the correct label; nan when no pixel counts.

    >>> pixel_accuracy(torch.tensor([[3, 1], [0, 4]]))
    0.875
    """
    counts = _exact(matrix)
    return (counts.diagonal().sum() / counts.sum()).item()


def mean_accuracy(matrix: Tensor) -> float:
    """Mean over the classes in the target of the fraction of their pixels with the correct label.

    >>> mean_accuracy(torch.tensor([[3, 1], [0, 4]]))
    0.875
    """
    counts = _exact(matrix)
    return (counts.diagonal() / counts.sum(1)).nanmean().item()


def frequency_weighted_iou(matrix: Tensor) -> float:
    """Mean of :func:`iou` weighted by the counted pixels of each class; nan without pixels.

    >>> frequency_weighted_iou(torch.tensor([[3, 1], [0, 4]]))
    0.775
    """
    counts = _exact(matrix)
    share = counts.sum(1) / counts.sum()
    return (share * iou(matrix).nan_to_num()).sum().item()


def dice(matrix: Tensor) -> Tensor:
    """Dice score, also F1, of each class: 2 n_tt / (sum_p n_tp + sum_t n_tp).

    Returns:
        (K,) float64 on the CPU; nan for a class that is neither in the target nor in the labels.

    >>> dice(torch.tensor([[3, 1, 0], [1, 4, 0], [0, 0, 0]]))
    tensor([0.7500, 0.8000,    nan], dtype=torch.float64)
    """
    counts = _exact(matrix)
    return 2 * counts.diagonal() / (counts.sum(0) + counts.sum(1))


def matrix_csv(matrix: Tensor, classes: Classes) -> str:
    """The counts as comma-separated values: one row a true class.

    >>> print(matrix_csv(torch.tensor([[3, 1], [0, 4]]), Classes.numbered(2)), end="")
    true class,class_0,class_1
    class_0,3,1
    class_1,0,4
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true class", *classes.names])
    writer.writerows([name, *row] for name, row in zip(classes.names, matrix.tolist(), strict=True))
    return text.getvalue()


def grouped(matrix: Tensor, groups: Mapping[str, Sequence[int]]) -> Tensor:
    """The counts of groups of classes: confusing classes of one group is not an error then.

    Args:
        matrix: (K, K) counts.
        groups: the class ids of each group; a class in none of them does not count.

    Returns:
        (G, G) counts, in the order of ``groups``.

    >>> vehicles = {"road": [0], "vehicle": [1, 2]}
    >>> grouped(torch.tensor([[9, 1, 0], [0, 5, 3], [0, 2, 4]]), vehicles)
    tensor([[ 9,  1],
            [ 0, 14]])
    """
    member = matrix.new_zeros(len(groups), len(matrix))  # (G, K), 1 where the class is in the group
    for row, ids in zip(member, groups.values(), strict=True):
        row[list(ids)] = 1
    return member @ matrix @ member.T  # (G, K) (K, K) (K, G)


def scores(
    matrix: Tensor,
    classes: Classes,
    context_classes: Sequence[int] = (),
    categories: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, float]:
    """Every score of a confusion matrix by its name; classes that do not occur are left out.

    Args:
        matrix: (K, K) counts.
        classes: the names of the K classes.
        context_classes: ids that only far context distinguishes; their mean IoU is ``context_iou``.
        categories: named groups of classes, each scored as if it were one class.

    >>> scores(torch.tensor([[3, 1], [0, 4]]), Classes.numbered(2), context_classes=(1,))
    {'miou': 0.775, 'pixel_accuracy': 0.875, 'mean_accuracy': 0.875,
     'frequency_weighted_iou': 0.775, 'mean_dice': 0.873..., 'context_iou': 0.8,
     'iou/class_0': 0.75, 'iou/class_1': 0.8}
    """
    values = {
        "miou": mean_iou(matrix),
        "pixel_accuracy": pixel_accuracy(matrix),
        "mean_accuracy": mean_accuracy(matrix),
        "frequency_weighted_iou": frequency_weighted_iou(matrix),
        "mean_dice": dice(matrix).nanmean().item(),
    }
    if context_classes:
        values["context_iou"] = mean_iou(matrix, context_classes)
    if categories:
        merged = grouped(matrix, categories)
        values["category_miou"] = mean_iou(merged)
        values |= _of_each("category_iou", categories, merged)
    return values | _of_each("iou", classes.names, matrix)


def table(matrix: Tensor, classes: Classes, title: str = "IoU per class") -> Table:
    """A table for the terminal: IoU and share of the pixels of each class, and the mean.

    A class that does not occur has a dash.

    >>> table(torch.tensor([[3, 1], [0, 4]]), Classes.numbered(2)).row_count
    3
    """
    counts = _exact(matrix)
    share = counts.sum(1) / counts.sum()
    grid = Table(title=title, title_justify="left")
    grid.add_column("class")
    grid.add_column("IoU %", justify="right")
    grid.add_column("pixels %", justify="right")
    for name, score, part in zip(classes.names, iou(matrix).tolist(), share.tolist(), strict=True):
        grid.add_row(name, _percent(score), _percent(part))
    grid.add_section()
    grid.add_row("mean (mIoU)", _percent(mean_iou(matrix)), "")
    return grid


class ConfusionMatrix(Metric):
    """The confusion matrix of a whole split, updated batch by batch and summed over processes.

    ``update(labels, target)`` takes two tensors of class ids of one shape; ``compute()`` gives the
    (K, K) int64 counts of :func:`confusion_matrix`; torchmetrics squeezes those of a single class.
    ``torchmetrics.segmentation.MeanIoU`` averages over images, which is another number.

    >>> metric = ConfusionMatrix(2)
    >>> metric.update(torch.tensor([0, 1]), torch.tensor([0, 1]))
    >>> metric.update(torch.tensor([0, 1]), torch.tensor([1, 255]))
    >>> metric.compute()
    tensor([[1, 0],
            [1, 1]])
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        zeros = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(self, labels: Tensor, target: Tensor) -> None:
        """Add the pixels of one batch."""
        self.counts += confusion_matrix(labels, target, self.num_classes, self.ignore_index)

    def compute(self) -> Tensor:
        """The (K, K) counts so far."""
        return self.counts


def _of_each(score: str, names: Iterable[str], matrix: Tensor) -> dict[str, float]:
    pairs = zip(names, iou(matrix).tolist(), strict=True)
    return {f"{score}/{name}": value for name, value in pairs if not math.isnan(value)}


def _exact(matrix: Tensor) -> Tensor:
    return matrix.to("cpu", torch.float64)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
