"""What a training shows: its curves, and a few validation images with labels and predictions."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from scenewise.classes import Classes
from scenewise.visualize.overlay import hatched, overlay
from scenewise.visualize.panels import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 360  # pixels of one image in the sheet
_MARGIN = 8
_CURVES = (  # title, and the columns of metrics.csv that it draws
    ("loss", ("train/loss", "val/loss")),
    ("mIoU", ("val/miou",)),
    ("learning rate", ("lr/backbone", "lr/head")),
)


class Sample(NamedTuple):
    """A validation image (3, H, W), uint8, its mask (H, W), and the predicted labels (H, W)."""

    name: str
    image: Tensor
    mask: Tensor
    labels: Tensor


def curves_figure(rows: Sequence[Mapping[str, str]]) -> "Figure":
    """Loss, mIoU and learning rate against the step, from the rows of ``metrics.csv``.

    >>> rows = [{"step": "1", "train/loss": "2.5"}, {"step": "2", "train/loss": "1.5"}]
    >>> [len(axes.lines) for axes in curves_figure(rows).axes]
    [1, 0, 0]
    """
    figure = new_figure(11, 3.2)
    for axes, (title, columns) in zip(figure.subplots(1, 3), _CURVES, strict=True):
        for column in columns:
            points = [(int(row["step"]), float(row[column])) for row in rows if row.get(column)]
            if points:
                marker = "o" if column.startswith("val") else None
                axes.plot(*zip(*points, strict=True), label=column, marker=marker, markersize=3)
        axes.set(title=title, xlabel="step")
        if axes.lines:
            axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    return figure


def confusions(matrix: Tensor, classes: Classes, most: int = 5) -> list[str]:
    """The classes that are mistaken for another one most often, by pixels.

    Args:
        matrix: (K, K) counts; rows are true classes, columns predicted ones.
        classes: the names of the K classes.
        most: lines at most.

    >>> import torch
    >>> confusions(torch.tensor([[6, 2], [0, 4]]), Classes(("tree", "grass"), ((1, 1, 1),) * 2))
    ['tree taken for grass: 25 % of its pixels']
    """
    wrong = matrix.clone()
    wrong.fill_diagonal_(0)
    lines = []
    for cell in wrong.flatten().argsort(descending=True).tolist()[:most]:
        true, predicted = divmod(cell, len(classes))
        if wrong[true, predicted] > 0:
            share = 100 * float(wrong[true, predicted]) / float(matrix[true].sum())
            names = f"{classes.names[true]} taken for {classes.names[predicted]}"
            lines.append(f"{names}: {share:.0f} % of its pixels")
    return lines


def samples_sheet(samples: Sequence[Sample], classes: Classes, notes: Sequence[str]) -> Image.Image:
    """A row for each sample: the image, its labels, the prediction with errors hatched; then text.

    >>> import torch
    >>> sample = Sample("a", torch.zeros(3, 9, 18), torch.zeros(9, 18), torch.ones(9, 18))
    >>> samples_sheet([sample], Classes.numbered(2), ["a note"]).size
    (1112, 244)
    """
    rows = [_row(sample, classes) for sample in samples]
    line = 20  # pixels of a line of text
    height = sum(row.height + line + _MARGIN for row in rows) + line * len(notes) + 2 * _MARGIN
    sheet = Image.new("RGB", (3 * _WIDTH + 4 * _MARGIN, height + line * (not rows)), "white")
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(14), _MARGIN
    for sample, row in zip(samples, rows, strict=True):
        text = f"{sample.name}: image, labels, prediction (errors hatched)"
        draw.text((_MARGIN, top), text, "black", font)
        sheet.paste(row, (_MARGIN, top + line))
        top += row.height + line + _MARGIN
    for note in notes:
        draw.text((_MARGIN, top), note, "black", font)
        top += line
    return sheet


def _row(sample: Sample, classes: Classes) -> Image.Image:
    image = sample.image
    height = max(1, round(_WIDTH * image.shape[1] / image.shape[2]))
    drawn = [
        overlay(image, labels, classes, opacity=opacity).resize((_WIDTH, height))
        for labels, opacity in ((sample.mask, 0.0), (sample.mask, 0.8), (sample.labels, 0.8))
    ]
    wrong = (sample.labels != sample.mask) & (sample.mask != classes.ignore_index)
    drawn[2] = hatched(drawn[2], wrong)
    row = Image.new("RGB", (3 * _WIDTH + 2 * _MARGIN, height), "white")
    for index, panel in enumerate(drawn):
        row.paste(panel, (index * (_WIDTH + _MARGIN), 0))
    return row
