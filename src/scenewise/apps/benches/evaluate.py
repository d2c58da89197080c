"""Counting a confusion matrix, beside torchmetrics."""

import torch
from torchmetrics.classification import MulticlassConfusionMatrix

from scenewise.apps.benches.measure import Row, compare
from scenewise.training.metrics import ConfusionMatrix

CLASSES, SIZE, IGNORED = 19, (1024, 2048), 255


def rows(repeats: int = 5) -> list[Row]:
    """One update with a street picture's labels, a tenth of them ignored."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(CLASSES, (1, *SIZE), generator=generator)
    labels = torch.randint(CLASSES, (1, *SIZE), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.1] = IGNORED
    theirs = MulticlassConfusionMatrix(CLASSES, ignore_index=IGNORED)
    unchecked = MulticlassConfusionMatrix(CLASSES, ignore_index=IGNORED, validate_args=False)
    ours = ConfusionMatrix(CLASSES, IGNORED)
    ways = {
        "torchmetrics": lambda: theirs.update(labels, target),
        "torchmetrics, unchecked": lambda: unchecked.update(labels, target),
        "scenewise": lambda: ours.update(labels, target),
    }
    return compare(f"{CLASSES} classes, {SIZE[0]} x {SIZE[1]} labels", ways, repeats)
