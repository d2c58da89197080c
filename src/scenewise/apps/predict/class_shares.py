"""``shares.csv``: the share of each class in each image."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import torch

from scenewise.apps.predict.ranking import Labelled
from scenewise.classes import Classes
from scenewise.data.images import read_mask
from scenewise.files import write_text


def write_shares(path: Path, results: Sequence[Labelled], classes: Classes) -> None:
    """Write a row for each image: its path, and the share of its pixels with each class, 0..1.

    The last column is the share of pixels without a class. The label files are read, so images of
    earlier runs and of other processes have their rows.

    Raises:
        UserError: a label file is unreadable, or the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", *classes.names, "(ignored)"))
    for result in results:
        ids = read_mask(result.labels).long().flatten()  # (H W,)
        counts = torch.bincount(ids, minlength=256)[: len(classes)].tolist()
        counts.append(len(ids) - sum(counts))
        writer.writerow((str(result.image), *(round(count / len(ids), 6) for count in counts)))
    write_text(path, text.getvalue())
