"""Boundary IoU: how well outlines agree, which plain IoU hardly shows on large objects.

B. Cheng and others, "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation",
CVPR 2021. The paper averages over objects; here the pixels of a whole split are counted for each
class, as for mIoU.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric

_Join = Callable[[Tensor, Tensor], Tensor]


def boundary(labels: Tensor, distance: int) -> Tensor:
    """The pixels at most ``distance`` pixels away from another label or the image border.

    Distance is the larger of the steps down and across, as in the paper's code, which erodes each
    class ``distance`` times with a 3 x 3 square and takes what was removed. Here all classes are
    eroded at once: a pixel is inside if the largest and the smallest label around it are equal.

    Args:
        labels: (H, W) class ids.
        distance: pixels, at least 1.

    Returns:
        (H, W) bool.

    >>> boundary(torch.zeros(3, 5, dtype=torch.int64), 1).int()
    tensor([[1, 1, 1, 1, 1],
            [1, 0, 0, 0, 1],
            [1, 1, 1, 1, 1]], dtype=torch.int32)
    """
    framed = torch.nn.functional.pad(labels.to(torch.int16), [distance] * 4, value=-1)  # border
    largest, smallest = framed, framed
    for dim in (0, 1):
        largest = _over_windows(largest, 2 * distance + 1, dim, torch.maximum)
        smallest = _over_windows(smallest, 2 * distance + 1, dim, torch.minimum)
    return largest != smallest


def _boundary_distance(height: int, width: int, ratio: float = 0.02) -> int:
    """``ratio`` of the image diagonal in whole pixels, at least 1; the paper uses 2 %.

    >>> _boundary_distance(1024, 2048)
    46
    """
    return max(1, round(ratio * math.hypot(height, width)))


def boundary_counts(
    labels: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255, ratio: float = 0.02
) -> Tensor:
    """Boundary pixels of each class: intersection and union of labels and target.

    Pixels that the target ignores have no class in either.

    Args:
        labels: (H, W) class ids that a network gave.
        target: (H, W) true class ids or ``ignore_index``.
        num_classes: K.
        ignore_index: pixels of this true id do not count.
        ratio: width of the boundary as a fraction of the image diagonal.

    Returns:
        (2, K) int64; boundary IoU is the first row over the second.

    >>> target = torch.tensor([[0, 0, 1, 1]] * 4)
    >>> boundary_counts(target, target, 2)
    tensor([[8, 8],
            [8, 8]])
    """
    height, width = target.shape
    distance = _boundary_distance(height, width, ratio)  # pixels
    void = target == ignore_index
    truth = torch.where(void, num_classes, target)  # class K: ignored or no boundary
    given = torch.where(void, num_classes, labels)
    of_truth = torch.where(boundary(truth, distance), truth, num_classes)
    of_given = torch.where(boundary(given, distance), given, num_classes)
    shared = torch.where(of_truth == of_given, of_truth, num_classes)
    hits, true_pixels, given_pixels = (
        torch.bincount(ids.flatten().long(), minlength=num_classes + 1)[:num_classes]
        for ids in (shared, of_truth, of_given)
    )
    return torch.stack([hits, true_pixels + given_pixels - hits])


class BoundaryIoU(Metric):
    """Mean boundary IoU of a whole split, updated image by image and summed over processes.

    ``update(labels, target)`` takes class ids (B, H, W); ``compute()`` gives the mean over the
    classes that occur, nan when none does.

    >>> metric = BoundaryIoU(2)
    >>> target = torch.tensor([[[0, 0, 1, 1]] * 4])
    >>> metric.update(target, target)
    >>> metric.compute().item()
    1.0
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        zeros = torch.zeros(2, num_classes, dtype=torch.int64)  # intersection, union
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(self, labels: Tensor, target: Tensor) -> None:
        """Add the images of one batch."""
        for given, truth in zip(labels, target, strict=True):  # (H, W) each
            self.counts += boundary_counts(given, truth, self.num_classes, self.ignore_index)

    def compute(self) -> Tensor:
        """The mean so far, float64 on the CPU."""
        intersection, union = self.counts.to("cpu", torch.float64)
        mean: Tensor = (intersection / union).nanmean()
        return mean


def _over_windows(values: Tensor, width: int, dim: int, join: _Join) -> Tensor:
    """``join`` over windows of ``width`` along ``dim``, doubling the window in each step."""
    done = 1
    while done < width:
        step = min(done, width - done)  # the last step completes the width
        length = values.shape[dim] - step
        values = join(values.narrow(dim, 0, length), values.narrow(dim, step, length))
        done += step
    return values
