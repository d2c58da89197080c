"""Thresholds of class probabilities that maximise F1, from histograms of the probabilities.

>>> import torch
>>> search = ThresholdSearch(Classes.numbered(3))
>>> mask = torch.tensor([[[2, 2, 1, 1, 0]]])  # (B, H, W)
>>> rare = torch.tensor([0.4, 0.3, 0.1, 0.2, 0.0])
>>> search.add(torch.stack([0.9 - rare, torch.full((5,), 0.1), rare])[None, :, None], mask)
>>> search.thresholds()["class_2"], float(search.best()[1][2])
(0.3, 1.0)
"""

import math
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from scenewise.classes import Classes
from scenewise.models.thresholds import label_by_thresholds, threshold_values
from scenewise.training.metrics.confusion import confusion_matrix, dice, mean_iou

_STEPS = 1000  # thresholds are multiples of a thousandth
_WITHOUT = 0.5  # threshold of a class that does not occur, so that every class has one


class ThresholdSearch:
    """Counts of the probabilities of each class, and the thresholds with the largest F1.

    F1 of a class against the rest is 2 TP / (2 TP + FP + FN), where a pixel is predicted as the
    class if its probability is at least the threshold. Candidates are 0.001, 0.002, ..., 0.999. The
    counts between them are exact, so F1 of each is exactly that of all pixels. Of thresholds with
    the same F1 the one nearest to 0.5 is taken. Memory: 2 K histograms of 1000 counts.

    Args:
        classes: of the model.

    Attributes:
        matrix: (K, K) counts of the labels with the largest probability; rows are true classes.
        counts: (2, K, 1000): pixels whose probability of class k is in [i, i + 1) thousandths, of
            other true classes and of class k itself; the last has 1 too.
    """

    def __init__(self, classes: Classes) -> None:
        self.classes = classes
        count = len(classes)
        self.matrix = torch.zeros(count, count, dtype=torch.int64)
        self.counts = torch.zeros(2, count, _STEPS, dtype=torch.int64)
        self._edges = torch.arange(1, _STEPS, dtype=torch.float64) / _STEPS

    def add(self, probabilities: Tensor, masks: Tensor) -> None:
        """Count a batch.

        Args:
            probabilities: (B, K, H, W).
            masks: true ids, (B, H, W); ignored pixels do not count.
        """
        ignored, count = self.classes.ignore_index, len(self.classes)
        masks = masks.long().to(probabilities.device)
        self.matrix += confusion_matrix(probabilities.argmax(1), masks, count, ignored).cpu()
        known = masks != ignored  # (B, H, W)
        truth = masks[known]  # (N,)
        edges = self._edges.to(probabilities.device, probabilities.dtype)  # as they are compared
        for k in range(count):
            # the number of edges that a probability reaches: exactly p >= threshold
            bins = torch.bucketize(probabilities[:, k][known], edges, right=True)  # (N,)
            cells = bins + _STEPS * (truth == k)
            histogram = torch.bincount(cells, minlength=2 * _STEPS)
            self.counts[:, k] += histogram.view(2, _STEPS).cpu()

    def merge(self, matrix: Tensor, counts: Tensor) -> None:
        """Add what another process has counted, the attributes of the same names."""
        self.matrix += matrix
        self.counts += counts

    def best(self) -> tuple[Tensor, Tensor]:
        """Each class's threshold and its F1 against the rest, (K,) float64; NaN without pixels."""
        reached = self.counts.flip(-1).cumsum(-1).flip(-1)[..., 1:].double()  # (2, K, 999)
        true_pixels = self.counts[1].sum(-1, keepdim=True)  # (K, 1)
        f1 = 2 * reached[1] / (reached.sum(0) + true_pixels)  # (K, 999)
        largest = f1.nan_to_num(-1).amax(1, keepdim=True)
        distance = torch.where(f1 == largest, (self._edges - 0.5).abs(), math.inf)
        nearest = distance.argmin(1)  # (K,)
        occurs = true_pixels[:, 0] > 0
        thresholds = torch.where(occurs, self._edges[nearest], math.nan)
        return thresholds, torch.where(occurs, largest[:, 0], math.nan)

    def thresholds(self) -> dict[str, float]:
        """What a model stores: a threshold for each class; of two classes, for the rarer one.

        Of two classes one threshold decides both. A class that does not occur gets 0.5.
        """
        found = self.best()[0].nan_to_num(_WITHOUT).tolist()
        named = {
            name: round(value, 3) for name, value in zip(self.classes.names, found, strict=True)
        }
        if len(named) == 2:
            rarer = self.classes.names[int(self.counts[1].sum(-1).argmin())]
            return {rarer: named[rarer]}
        return named

    def label(self, probabilities: Tensor) -> Tensor:
        """Labels (B, H, W) of probabilities (B, K, H, W) with these thresholds, as of predict."""
        values = threshold_values(self.thresholds(), self.classes)
        return label_by_thresholds(probabilities.transpose(0, 1), values)[0]


class ThresholdScores:
    """F1 of every class before and after: on the images of the choice, and on those of a test.

    Args:
        search: with the counts of the choice.

    Attributes:
        before: (K, K) counts of the test, labels with the largest probability.
        after: the same with the thresholds.
    """

    def __init__(self, search: ThresholdSearch) -> None:
        self.search = search
        self.before, self.after = torch.zeros_like(search.matrix), torch.zeros_like(search.matrix)

    def add(self, probabilities: Tensor, masks: Tensor) -> None:
        """Count a batch of the test; see :meth:`ThresholdSearch.add`."""
        ignored, count = self.search.classes.ignore_index, len(self.search.classes)
        masks = masks.long().to(probabilities.device)
        labels = (probabilities.argmax(1), self.search.label(probabilities))
        for matrix, given in zip((self.before, self.after), labels, strict=True):
            matrix += confusion_matrix(given, masks, count, ignored).cpu()

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, for ``thresholds.json``; None where a class does not occur."""
        columns = self._columns()
        names = self.search.classes.names
        return {
            "thresholds": self.search.thresholds(),
            "f1": {
                name: {key: _number(float(values[k])) for key, values in columns.items()}
                for k, name in enumerate(names)
            },
            "miou": {
                "before": _number(mean_iou(self.before)),
                "after": _number(mean_iou(self.after)),
            },
        }

    def table(self) -> Table:
        """Class, threshold, F1 before and after."""
        grid = Table(title="Thresholds, and F1 in %", title_justify="left")
        columns, thresholds = self._columns(), self.search.thresholds()
        grid.add_column("class")
        for heading in ("threshold", *(key.replace("_", ", ") for key in columns)):
            grid.add_column(heading, justify="right")
        for k, name in enumerate(self.search.classes.names):
            value = f"{thresholds[name]:.3f}" if name in thresholds else "-"
            cells = [_percent(float(values[k])) for values in columns.values()]
            grid.add_row(name, value, *cells)
        return grid

    def sentence(self) -> str:
        """What the thresholds change in the mIoU of the test, which F1 of single classes is not."""
        before, after = (_percent(mean_iou(matrix)) for matrix in (self.before, self.after))
        return f"mIoU of the tested images: {before} % before, {after} % with the thresholds"

    def _columns(self) -> dict[str, Tensor]:
        names = self.search.classes.names
        chosen = torch.tensor([name in self.search.thresholds() for name in names])
        return {
            "chosen_before": dice(self.search.matrix),
            "chosen_after": self.search.best()[1].where(chosen, math.nan),
            "test_before": dice(self.before),
            "test_after": dice(self.after),
        }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"
