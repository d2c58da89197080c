"""``ranking.csv``: which images to label next, the least confident first."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from scenewise.apps.predict.labelling import Labelled
from scenewise.apps.predict.manifest import stored_record
from scenewise.files import write_text

CONFIDENCE = "confidence"  # key in a result's record: mean and lowest


def summary(confidence: Tensor) -> list[float]:
    """Mean and lowest confidence of an image (H, W), as its record holds them.

    >>> import torch
    >>> summary(torch.tensor([[0.5, 1.0]]))
    [0.75, 0.5]
    """
    return [round(float(confidence.double().mean()), 6), round(float(confidence.min()), 6)]


def write_ranking(path: Path, results: Sequence[Labelled]) -> None:
    """Write image, mean confidence and lowest confidence, in the order of the mean.

    Raises:
        UserError: the file cannot be written.
    """
    rows = []
    for result in results:
        mean, lowest = stored_record(result.labels)[CONFIDENCE]
        rows.append((mean, lowest, str(result.image)))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", "mean_confidence", "lowest_confidence"))
    writer.writerows((image, mean, lowest) for mean, lowest, image in sorted(rows))
    write_text(path, text.getvalue())
