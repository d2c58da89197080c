"""``ranking.csv``: which images to label next, the least confident first."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from scenewise.apps.predict.manifest import stored_record
from scenewise.files import write_text

CONFIDENCE = "confidence"  # key in a result's record: mean and lowest


class Labelled(NamedTuple):
    """An image file, the name of its results, and the label file."""

    image: Path
    name: str
    labels: Path

    @property
    def file_name(self) -> str:
        """The image's name in a labelling tool: that of its results, with the image's suffix."""
        suffix = self.image.suffix
        return self.name if self.name.endswith(suffix) else f"{self.name}{suffix}"


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
    write_text(path, ranking(rows))


def ranking(rows: Iterable[tuple[float, float, str]]) -> str:
    """The text of the file for mean confidence, lowest confidence and image.

    >>> print(ranking([(0.75, 0.5, "b.png"), (0.5, 0.25, "a.png")]), end="")
    image,mean_confidence,lowest_confidence
    a.png,0.5,0.25
    b.png,0.75,0.5
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", "mean_confidence", "lowest_confidence"))
    writer.writerows((image, mean, lowest) for mean, lowest, image in sorted(rows))
    return text.getvalue()
