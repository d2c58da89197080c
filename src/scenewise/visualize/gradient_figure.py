"""A figure of gradients: which part of the image moves the scores of pixels, for any network."""

import os
import textwrap
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from scenewise.classes import Classes
from scenewise.data.images import ImageLike, as_floats, as_values
from scenewise.inference.predictor import Prediction, Predictor, display, layout_of
from scenewise.models.segmenter import Segmenter
from scenewise.visualize.attention_maps import Place
from scenewise.visualize.gradient import gradient_map
from scenewise.visualize.panels import (
    Canvas,
    Spotlight,
    check_format,
    check_pixels,
    save_figure,
    scale_row,
    spotlight_row,
    stack,
)

_CELL = 8  # pixels: gradients of single pixels are too noisy to look at


class PixelGradient(NamedTuple):
    """The gradient of the score of the class that is predicted at one pixel.

    Attributes:
        at: the pixel, (row, column).
        label: its class id.
        score: the probability of that class, 0..1.
        weights: (H, W), see :func:`~scenewise.visualize.gradient.gradient_map`.
    """

    at: Place
    label: int
    score: float
    weights: Tensor

    def sentence(self, classes: Classes) -> str:
        """What is predicted, and from how far away its score is moved.

        >>> classes, weights = Classes(("road", "car"), ((1, 1, 1), (2, 2, 2))), torch.ones(1, 9)
        >>> PixelGradient((0, 4), 1, 0.9, weights).sentence(classes)
        '"car" (90.0 %): half of its gradient is within 2 pixels, nine tenths within 4.'
        >>> PixelGradient((0, 4), 1, 0.9, 0 * weights).sentence(classes)
        '"car" (90.0 %): its gradient is 0; no small change of the image moves this score.'
        """
        predicted = f'"{classes.names[self.label]}" ({100 * self.score:.1f} %)'
        if not self.weights.any():
            return f"{predicted}: its gradient is 0; no small change of the image moves this score."
        half, most = (reach(self.weights, self.at, share) for share in (0.5, 0.9))
        return (
            f"{predicted}: half of its gradient is within {half:.0f} pixels, nine tenths within "
            f"{most:.0f}."
        )


class Gradients(NamedTuple):
    """A prediction, and the gradients of its scores at the marked pixels."""

    prediction: Prediction
    pixels: list[PixelGradient]


def reach(weights: Tensor, at: Place, share: float) -> float:
    """The radius around ``at`` that holds at least ``share`` of the weights (H, W), in pixels.

    >>> reach(torch.tensor([[0.0, 4.0, 2.0, 1.0, 1.0]]), (0, 1), 0.75)
    1.0
    """
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in weights.shape)
    distance = torch.hypot(rows[:, None] - at[0], columns - at[1]).flatten()  # (H W,)
    order = distance.argsort()
    total = weights.double().flatten()[order].cumsum(0)
    first = int(torch.searchsorted(total, share * total[-1]))
    return float(distance[order[first]])


def gradient_figure(
    model: Segmenter,
    image: ImageLike,
    at: Sequence[Place],
    path: str | os.PathLike[str],
    *,
    width: float = 7.0,
) -> Gradients:
    """Draw which part of an image moves the scores of pixels. Works without attention.

    As :func:`~scenewise.visualize.explain_figure`: the image and its prediction, then for each
    marked pixel the image under the gradient of the score of its class, averaged over cells of 8 x
    8 pixels, and the classes that this gradient falls on.

    Args:
        model: any; it stays on its device.
        image: as a :class:`~scenewise.inference.predictor.Predictor` takes it.
        at: pixels as (row, column) of the image, counted from 0.
        path: ``.png``, ``.pdf`` or ``.svg``.
        width: of the figure, in inches.

    Raises:
        UserError: Captum is missing, a network of your own, a pixel outside the image, another
            suffix.
    """
    predictor = Predictor(model, fast=False)
    values = as_values(image, layout_of(model))  # (C, H, W)
    check_pixels(at, (values.shape[1], values.shape[2]))
    check_format(path)
    prediction, scores = predictor.with_scores(values, at)
    pixels = []
    for place, of_classes in zip(at, scores, strict=True):
        label = int(of_classes.argmax())
        weights = gradient_map(model, values, place, label)
        pixels.append(PixelGradient(tuple(place), label, float(of_classes[label]), weights))
    drawn = as_floats(display(values, model)).cpu()
    canvas = Canvas(drawn, at, prediction.labels, model.classes, width)
    rows = [
        spotlight_row(canvas, index, _text(pixel, canvas), partial(_light, pixel.weights))
        for index, pixel in enumerate(pixels)
    ]
    scale = scale_row("times the mean gradient; black: share of the image")
    save_figure(stack(canvas, [*rows, scale]), path)
    return Gradients(prediction, pixels)


def _light(weights: Tensor) -> Spotlight:
    cells = F.avg_pool2d(weights[None].float(), _CELL, ceil_mode=True)[0]  # (H, W) -> (h, w)
    return Spotlight(cells, False, "gradient")


def _text(pixel: PixelGradient, canvas: Canvas) -> str:
    name = canvas.classes.names[pixel.label]
    lines = textwrap.wrap(pixel.sentence(canvas.classes), canvas.letters)
    return "\n".join((f'gradient of "{name}" at pixel ({pixel.at[0]}, {pixel.at[1]})', *lines))
