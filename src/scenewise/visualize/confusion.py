"""A confusion matrix as a figure: which class each class is mistaken for."""

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from scenewise.classes import Classes
from scenewise.visualize.panels import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_WITH_NUMBERS = 30  # classes; with more, numbers in the cells are too small to read


def confusion_figure(matrix: Tensor, classes: Classes) -> "Figure":
    """Rows are true classes, columns predicted ones; a cell is its percentage of the row's pixels.

    The row of a class without pixels is left empty.

    Args:
        matrix: (K, K) counts.
        classes: the names of the K classes.

    >>> import torch
    >>> figure = confusion_figure(torch.tensor([[3, 1], [0, 4]]), Classes.numbered(2))
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['75', '25', '100']
    """
    counts = matrix.cpu().double().numpy()
    with np.errstate(invalid="ignore"):  # 0 / 0 in rows without pixels
        percent = 100 * counts / counts.sum(1, keepdims=True)
    side = min(24.0, 2.5 + 0.36 * len(classes))
    figure = new_figure(side + 0.8, side)
    axes = figure.subplots()
    shown = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(shown, ax=axes, label="% of the true class", shrink=0.8)
    size = max(3.0, min(9.0, 360 / len(classes)))
    axes.set_xticks(range(len(classes)), classes.names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(classes)), classes.names, fontsize=size)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if len(classes) <= _MAX_WITH_NUMBERS:
        for row, column in zip(*np.nonzero(percent >= 0.5), strict=True):
            value = percent[row, column]
            color = "white" if value > 60 else "black"  # on dark blue
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=color, size=7)
    return figure
