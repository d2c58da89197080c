"""Panels of the figures that explain pixels: their rows, legend and style.

A figure is a stack of rows: the image and its prediction, then a row for each explained pixel with
the image under a spotlight and the classes that it falls on, then the scale, then the legend.
"""

import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.files import atomic_write
from scenewise.visualize.attention_maps import Place
from scenewise.visualize.overlay import overlay, shares
from scenewise.visualize.spotlight import class_bars, scale_bar, spotlight

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

PHONE = 3.4  # inches: the width of a figure that a phone, or a column of a paper, shows legibly
FORMATS = (".png", ".pdf", ".svg")
MARKS = ("#ff3b30", "#ffd60a", "#32d74b", "#0a84ff", "#bf5af2", "#ff9f0a")
LINE = 0.17  # inches, of text
_BARS_WIDTH = 2.3  # inches


def check_pixels(at: Sequence[Place], size: Place) -> None:
    """Raise a UserError for pixels outside an image of ``size``, or none at all."""
    if not at:
        raise UserError("no pixel to explain; give at least one (row, column)")
    for pixel in at:
        if len(pixel) != 2 or not all(0 <= i < n for i, n in zip(pixel, size, strict=True)):
            raise UserError(
                f"pixel {pixel} is outside the image of {size[0]} rows and {size[1]} columns; "
                "rows and columns count from 0"
            )


def check_format(path: str | os.PathLike[str]) -> None:
    """Raise a UserError for a file that is not one of ``FORMATS``."""
    if Path(path).suffix.lower() not in FORMATS:
        raise UserError(f"a figure is {', '.join(FORMATS)}, not '{path}'; choose one of these")


@dataclass(frozen=True)
class Canvas:
    """What all panels of a figure share.

    Attributes:
        image: (3, H, W) in 0..1.
        at: the marked pixels, (row, column).
        labels: (H, W), the predicted class ids.
        classes: names and colours.
        width: of the figure, in inches.
    """

    image: Tensor
    at: Sequence[Place]
    labels: Tensor
    classes: Classes
    width: float

    @property
    def size(self) -> Place:
        """(height, width) of the image."""
        return self.image.shape[1], self.image.shape[2]

    @property
    def letters(self) -> int:
        """The number of letters that fit into a line."""
        return max(30, int(14.5 * self.width))

    def mark(self, axes: "Axes", index: int) -> None:
        """Draw a ring around marked pixel ``index``."""
        row, column = self.at[index]
        color = MARKS[index % len(MARKS)]
        for edge, width in (("white", 3.5), (color, 2.0)):
            axes.plot(column, row, "o", ms=8, mfc="none", mec=edge, mew=width, clip_on=False)


class Row(NamedTuple):
    """A row of panels: its height in inches, and what draws it."""

    height: float
    draw: Callable[["SubFigure"], None]


class Spotlight(NamedTuple):
    """What a spotlight shows.

    Attributes:
        weights: (h, w) over the area of the image.
        align_corners: how they are upsampled.
        of: what the weights are, in one word: the title of the bars.
    """

    weights: Tensor
    align_corners: bool
    of: str


def stack(canvas: Canvas, rows: Sequence[Row]) -> "Figure":
    """Image and prediction, ``rows`` below them, and the legend of the classes."""
    rows = [_prediction_row(canvas), *rows]
    heights = [row.height for row in rows]
    with style():
        names = shares(canvas.labels, canvas.classes)
        lines = math.ceil(len(names) / _legend_columns(canvas.width))
        figure = new_figure(canvas.width, sum(heights) + 0.2 + 0.22 * lines)
        _legend(figure, canvas.labels, canvas.classes)
        parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, row in zip(parts, rows, strict=True):
            row.draw(part)
    return figure


def _prediction_row(canvas: Canvas) -> Row:
    height, breadth = canvas.size

    def draw(part: "SubFigure") -> None:
        original, prediction = part.subplots(1, 2)
        panel(original, "image").imshow(canvas.image.permute(1, 2, 0).numpy())
        drawn = overlay(canvas.image, canvas.labels, canvas.classes)
        panel(prediction, "prediction").imshow(np.asarray(drawn))
        for index in range(len(canvas.at)):
            canvas.mark(original, index)
            canvas.mark(prediction, index)

    return Row(canvas.width / 2 * height / breadth + 2 * LINE, draw)


def spotlight_row(canvas: Canvas, index: int, text: str, light: Callable[[], Spotlight]) -> Row:
    """The spotlight of pixel ``index`` and the classes it falls on, under the lines of ``text``.

    Side by side; in a narrow figure one above the other. ``light`` is called while it is drawn.
    """
    height, breadth = canvas.size
    narrow = canvas.width < 2 * _BARS_WIDTH
    tall = (canvas.width if narrow else canvas.width - _BARS_WIDTH) * height / breadth
    title = LINE * (text.count("\n") + 2)
    bars = 1.3  # inches, at least

    def draw(part: "SubFigure") -> None:
        if narrow:  # two subfigures: the names beside the bars do not indent the image
            ratios = (tall, bars)
            stacked = part.subfigures(2, 1, height_ratios=ratios, squeeze=False)[:, 0]
            axes, beside = (one.subplots() for one in stacked)
        else:
            ratios = (canvas.width - _BARS_WIDTH, _BARS_WIDTH)
            axes, beside = part.subplots(1, 2, width_ratios=ratios)
        part.suptitle(text, x=0.01, ha="left", fontsize=9)
        weights, align_corners, of = light()
        spotlight(axes, canvas.image, weights, align_corners=align_corners)
        canvas.mark(panel(axes), index)
        class_bars(beside, weights, canvas.labels, canvas.classes, title=f"{of} by class")

    return Row(title + (tall + bars if narrow else max(tall, bars)), draw)


def scale_row(title: str) -> Row:
    """The colour bar of all spotlights."""

    def draw(part: "SubFigure") -> None:
        axes = part.subplots()
        scale_bar(part, axes, title)

    return Row(0.55, draw)


def save_figure(figure: "Figure", path: str | os.PathLike[str]) -> None:
    """Write a matplotlib figure, whole or not at all."""
    with style(), atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=200)


def _legend(figure: "Figure", labels: Tensor, classes: Classes) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color="#{:02x}{:02x}{:02x}".format(*color), label=f"{name} {100 * share:.1f} %")
        for name, color, share in shares(labels, classes)
    ]
    columns = _legend_columns(figure.get_figwidth())
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def _legend_columns(width: float) -> int:
    """The number of class names in a row of the legend of a figure of ``width`` inches.

    >>> _legend_columns(10), _legend_columns(1)
    (6, 1)
    """
    return max(1, int(width / 1.65))  # inches for a name of usual length


def style() -> AbstractContextManager[None]:
    """Keep text as text in SVG and PDF, so that it can be searched and edited."""
    from matplotlib import rc_context

    return rc_context(
        {"svg.fonttype": "none", "pdf.fonttype": 42, "font.size": 9, "axes.titlesize": 9}
    )


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, in inches, that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panel(axes: "Axes", title: str = "") -> "Axes":
    """Axes without ticks, with a title."""
    axes.set_axis_on()
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, loc="left" if len(title) > 40 else "center")
    return axes
