"""Figures for papers: what pixels attend to, whether it matters, and what channels gain."""

import io
import math
import os
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from scenewise.data.images import ImageLike, as_floats, as_values
from scenewise.errors import UserError
from scenewise.inference.predictor import Predictor, display, layout_of
from scenewise.models.segmenter import Segmenter
from scenewise.visualize.attention_maps import (
    AttentionMaps,
    BlockMaps,
    Place,
    PositionMaps,
    cell,
)
from scenewise.visualize.effect import Explained, explained
from scenewise.visualize.panels import (
    LINE,
    Canvas,
    Row,
    Spotlight,
    check_format,
    check_pixels,
    new_figure,
    panel,
    save_figure,
    scale_row,
    spotlight_row,
    stack,
    style,
)
from scenewise.visualize.statistics import channel_contrast

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure


def explain_figure(
    model: Segmenter,
    image: ImageLike,
    at: Sequence[Place],
    path: str | os.PathLike[str],
    *,
    channels: int | None = None,
    width: float = 7.0,
    device: str | torch.device | None = None,
) -> Explained:
    """Draw what pixels of an image attend to, and whether it matters.

    The first row shows the image with the pixels marked, and the prediction with the names of its
    classes. Then, for each block in which pixels attend to pixels and each marked pixel: the image
    under the attention of this pixel, with contour lines at 2, 8 and 32 times the average, and the
    classes that the attention falls on. Its title says what the prediction is without the block.
    Then, for each block that mixes or gates channels, what it changes in the channels with the
    largest mean magnitude after it, and the class on which each of them is highest above its mean.

    Args:
        model: with at least one attention block.
        image: as a :class:`~scenewise.inference.predictor.Predictor` takes it.
        at: pixels as (row, column) of the image, counted from 0.
        path: ``.png``, ``.pdf`` or ``.svg``; the latter two keep text as text.
        channels: number of channels shown; None: 4 if no pixels attend to pixels, else none.
        width: of the figure, in inches; the default is that of a page of text.
        device: the model is moved there; None leaves it where it is.

    Returns:
        What was drawn: the prediction, the recorded attention, and what each block does.

    Raises:
        UserError: a model without attention, a network of your own, a pixel outside the image,
            another suffix.
    """
    if not isinstance(getattr(model, "_orig_mod", model), Segmenter):  # or a compiled one
        raise UserError(
            "explain_figure takes a Segmenter, whose classes and preprocessing it knows, not "
            f"{type(model).__name__}; run a network of your own inside attention_maps(model) and "
            "take the rows of its blocks"
        )
    values = as_values(image, layout_of(model))  # (C, H, W)
    check_pixels(at, (values.shape[1], values.shape[2]))
    check_format(path)
    shown = explained(Predictor(model, device=device, fast=False), values, at)
    check_attention(shown.maps)
    count = channels if channels is not None else 0 if shown.maps.positions else 4
    drawn = as_floats(display(values, model)).cpu()
    canvas = Canvas(drawn, at, shown.prediction.labels, model.classes, width)
    save_figure(_draw(_Scene(canvas, shown, model.align_corners), count), path)
    return shown


def check_attention(maps: AttentionMaps) -> None:
    """Raise a UserError for a model without attention blocks."""
    if not maps.blocks():
        raise UserError(
            "this model has no attention block; explain it by gradients (--explain gradient, "
            "gradient_figure), or take one such as danet"
        )


def map_image(values: Tensor, unit: str, *, width: float = 5.0) -> Image.Image:
    """Values (h, w) as an image with a colour bar."""
    buffer = io.BytesIO()
    with style():
        figure = new_figure(width, width * values.shape[0] / values.shape[1] + 0.4)
        axes = panel(figure.subplots())
        shown = axes.imshow(values.cpu().float().numpy(), cmap="viridis")
        figure.colorbar(shown, ax=axes, label=unit)
        figure.savefig(buffer, format="png", dpi=100)
    return Image.open(buffer).convert("RGB")


class _Scene(NamedTuple):
    """What all rows share: the canvas, the results, and how the model upsamples."""

    canvas: Canvas
    shown: Explained
    align_corners: bool

    def text(self, block: str, index: int) -> str:
        """Name, pixel and effect of a block, in lines that fit into the width of the figure."""
        gamma = self.shown.maps.gammas.get(block)
        place = ", ".join(map(str, self.canvas.at[index]))
        name = block if gamma is None else f"{block} (gamma {gamma:.3g})"
        effect = self.shown.sentence(block, index, self.canvas.classes)
        lines = textwrap.wrap(effect, self.canvas.letters)
        return "\n".join((f"{name} at pixel ({place})", *lines))


def _draw(scene: _Scene, channels: int) -> "Figure":
    """The rows below image and prediction, and these."""
    canvas, maps, rows = scene.canvas, scene.shown.maps, []
    for block in maps.positions.values():
        rows += [_attention_row(scene, block, index) for index in range(len(canvas.at))]
    if maps.positions:
        rows.append(scale_row("times the average; black lines: share of the image"))
    for mixer in {**maps.channels, **maps.gates}.values():
        if channels:
            rows.append(_channel_row(scene, mixer, channels))
    return stack(canvas, rows)


def _attention_row(scene: _Scene, block: PositionMaps, index: int) -> Row:
    canvas = scene.canvas

    def light() -> Spotlight:
        x = block.before()
        cells, corners = (x.shape[2], x.shape[3]), scene.align_corners
        place = cell(canvas.at[index], canvas.size, cells, align_corners=corners)
        weights = block.rows([place])[0, 0].cpu().float()  # (1, 1, h, w) -> (h, w)
        pooled = weights.shape != cells  # their centres do not coincide in the corners
        return Spotlight(weights, corners and not pooled, "attention")

    return spotlight_row(canvas, index, scene.text(block.name, index), light)


def _channel_row(scene: _Scene, block: BlockMaps, count: int) -> Row:
    """What a block changes in its strongest channels, on one scale symmetric about 0."""
    after, before = block.after()[0].cpu().float(), block.before()[0].cpu().float()
    same = after.shape == before.shape
    strongest = after.abs().mean((1, 2)).topk(min(count, len(after))).indices.tolist()
    drawn = (after - before if same else after)[strongest]  # (count, h, w)
    canvas, names = scene.canvas, scene.canvas.classes.names
    contrast = channel_contrast(after[None, strongest], canvas.labels, len(names))
    limit = max(float(drawn.abs().max()), 1e-12)
    text = "\n".join(scene.text(block.name, index) for index in range(len(canvas.at)))
    height, breadth = canvas.size

    def draw(part: "SubFigure") -> None:
        panels = part.subplots(1, count, squeeze=False)[0]
        for axes in panels:
            axes.set_axis_off()
        for axes, channel, values, of_class in zip(
            panels, strongest, drawn, contrast, strict=False
        ):
            best = int(of_class.nan_to_num(-math.inf).argmax())  # NaN: the class does not occur
            panel(axes, f"channel {channel}\n{names[best]}")
            extent = (-0.5, breadth - 0.5, height - 0.5, -0.5)
            heat = axes.imshow(
                values.numpy(), cmap="PuOr_r", vmin=-limit, vmax=limit, extent=extent
            )
        label = "after - before" if same else "after"
        part.colorbar(heat, ax=list(panels), label=label, aspect=12)
        part.suptitle(text, x=0.01, ha="left", fontsize=9)

    lines = text.count("\n") + 4
    return Row(canvas.width / count * height / breadth + LINE * lines, draw)
