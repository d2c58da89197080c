"""Figures for papers: what pixels attend to, and channels before and after a block."""

import io
import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from scenewise.classes import Classes
from scenewise.data.images import ImageLike, as_floats, as_values
from scenewise.errors import UserError
from scenewise.files import atomic_write
from scenewise.inference.predictor import Predictor, display, layout_of
from scenewise.models.segmenter import Segmenter
from scenewise.visualize.attention_maps import (
    AttentionMaps,
    BlockMaps,
    Place,
    PositionMaps,
    attention_maps,
    cell,
)
from scenewise.visualize.overlay import overlay, shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

FORMATS = (".png", ".pdf", ".svg")
MARKS = ("#ff3b30", "#ffd60a", "#32d74b", "#0a84ff", "#bf5af2", "#ff9f0a")


def explain_figure(
    model: Segmenter,
    image: ImageLike,
    at: Sequence[Place],
    path: str | os.PathLike[str],
    *,
    channels: int = 4,
    width: float = 10.0,
    device: str | torch.device | None = None,
) -> None:
    """Draw what pixels of an image attend to, and the channels around channel attention.

    The first row shows the image with the pixels marked, and the prediction with the names of its
    classes. Then, for each block in which pixels attend to pixels, one attention map for each
    marked pixel; 1 on its colour bar is the weight of uniform attention. Then, for each block that
    mixes or gates channels, the channels with the largest mean magnitude after it: one row before
    the block, one row after it.

    Args:
        model: with at least one attention block.
        image: as a :class:`~scenewise.inference.predictor.Predictor` takes it.
        at: pixels as (row, column) of the image, counted from 0.
        path: ``.png``, ``.pdf`` or ``.svg``; the latter two keep text as text.
        channels: number of channels shown.
        width: of the figure, in inches.
        device: the model is moved there; None leaves it where it is.

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
    if Path(path).suffix.lower() not in FORMATS:
        raise UserError(f"a figure is {', '.join(FORMATS)}, not '{path}'; choose one of these")
    with attention_maps(model) as maps:
        labels = Predictor(model, device=device)(values).labels
    check_attention(maps)
    scene = _Scene(as_floats(display(values, model)), at)
    save_figure(_draw(model, scene, labels, maps, channels, width), path)


def check_attention(maps: AttentionMaps) -> None:
    """Raise a UserError for a model without attention blocks."""
    if not maps.blocks():
        raise UserError(
            "this model has no attention block, so there is nothing to explain; take one such as "
            "danet"
        )


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


def map_image(values: Tensor, unit: str, *, width: float = 5.0) -> Image.Image:
    """Values (h, w) as an image with a colour bar."""
    buffer = io.BytesIO()
    with _style():
        figure = new_figure(width, width * values.shape[0] / values.shape[1] + 0.4)
        axes = _panel(figure.subplots())
        shown = axes.imshow(values.cpu().float().numpy(), cmap="viridis")
        figure.colorbar(shown, ax=axes, label=unit)
        figure.savefig(buffer, format="png", dpi=100)
    return Image.open(buffer).convert("RGB")


def save_figure(figure: "Figure", path: str | os.PathLike[str]) -> None:
    """Write a matplotlib figure, whole or not at all."""
    with _style(), atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)


@dataclass(frozen=True)
class _Scene:
    """What all panels of a figure share: the image (3, H, W) and the marked pixels."""

    image: Tensor
    at: Sequence[Place]

    def grey(self) -> NDArray[np.floating]:
        weights = self.image.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)  # luma, ITU-R BT.601
        return (self.image * weights).sum(0).cpu().numpy()

    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of the image in pixels, for feature maps of other sizes."""
        return (-0.5, self.image.shape[2] - 0.5, self.image.shape[1] - 0.5, -0.5)

    def mark(self, axes: "Axes", index: int) -> None:
        row, column = self.at[index]
        axes.plot(
            column, row, "o", ms=7, mfc="none", mec=MARKS[index % len(MARKS)], mew=2, clip_on=False
        )


_Row = Callable[["SubFigure"], None]


def _draw(
    model: Segmenter,
    scene: _Scene,
    labels: Tensor,
    maps: AttentionMaps,
    channels: int,
    width: float,
) -> "Figure":
    """Rows of equal panels: two in a row for images, ``channels`` for channels."""
    rows: list[tuple[int, _Row]] = [(2, partial(_prediction_row, scene, labels, model.classes))]
    for block in maps.positions.values():
        for start in range(0, len(scene.at), 2):
            shown = range(start, min(start + 2, len(scene.at)))
            rows.append((2, partial(_attention_row, scene, block, shown, model, maps.gammas)))
    for mixer in {**maps.channels, **maps.gates}.values():
        for moment in ("before", "after"):
            rows.append((channels, partial(_channel_row, scene, mixer, moment, channels)))
    tall = scene.image.shape[1] / scene.image.shape[2]
    heights = [width / panels * tall + 0.35 for panels, _ in rows]  # inches; 0.35 for titles
    with _style():
        lines = math.ceil(len(shares(labels, model.classes)) / _legend_columns(width))
        figure = new_figure(width, sum(heights) + 0.2 + 0.22 * lines)
        _legend(figure, labels, model.classes)
        parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, (_, draw) in zip(parts, rows, strict=True):
            draw(part)
    return figure


def _prediction_row(scene: _Scene, labels: Tensor, classes: Classes, part: "SubFigure") -> None:
    original, prediction = part.subplots(1, 2)
    _panel(original, "image").imshow(scene.image.permute(1, 2, 0).cpu().numpy())
    _panel(prediction, "prediction").imshow(np.asarray(overlay(scene.image, labels, classes)))
    for index in range(len(scene.at)):
        scene.mark(original, index)
        scene.mark(prediction, index)


def _attention_row(
    scene: _Scene,
    block: PositionMaps,
    shown: Sequence[int],
    model: Segmenter,
    gammas: dict[str, float],
    part: "SubFigure",
) -> None:
    x = block.before()
    size = (scene.image.shape[1], scene.image.shape[2])
    cells = (x.shape[2], x.shape[3])
    panels = part.subplots(1, 2)
    gamma = f", gamma {gammas[block.name]:.3g}" if block.name in gammas else ""
    for axes, index in zip(panels, shown, strict=False):
        pixel = scene.at[index]
        place = cell(pixel, size, cells, align_corners=model.align_corners)
        weights = block.rows([place])[0, 0].cpu().float()  # (1, 1, h, w) -> (h, w)
        _panel(axes, f"{block.name}{gamma}: what ({pixel[0]}, {pixel[1]}) attends to")
        axes.imshow(scene.grey(), cmap="gray", vmin=0, vmax=1)
        heat = axes.imshow(
            (weights * weights.numel()).numpy(),  # 1 is uniform
            cmap="inferno",
            vmin=0,
            alpha=0.75,
            extent=scene.extent(),
        )
        scene.mark(axes, index)
        bar = axes.inset_axes((1.02, 0, 0.03, 1))
        part.colorbar(heat, cax=bar, label="1 = uniform")
    for axes in panels[len(shown) :]:
        axes.set_axis_off()


def _channel_row(
    scene: _Scene, block: BlockMaps, moment: str, count: int, part: "SubFigure"
) -> None:
    after = block.after()[0]
    strongest = after.abs().mean((1, 2)).topk(min(count, len(after))).indices.tolist()
    features = after if moment == "after" else block.before()[0]
    panels = part.subplots(1, count, squeeze=False)[0]
    for axes in panels:
        axes.set_axis_off()
    for axes, channel in zip(panels, strongest, strict=False):
        axes.imshow(features[channel].cpu().float().numpy(), cmap="viridis", extent=scene.extent())
        _panel(axes, f"channel {channel} {moment}")
    part.supylabel(block.name, fontsize=7)


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
    (5, 1)
    """
    return max(1, int(width / 1.9))  # inches for a name of usual length


def _style() -> AbstractContextManager[None]:
    """Keep text as text in SVG and PDF, so that it can be searched and edited."""
    from matplotlib import rc_context

    return rc_context(
        {"svg.fonttype": "none", "pdf.fonttype": 42, "font.size": 9, "axes.titlesize": 9}
    )


def new_figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display
    return figure


def _panel(axes: "Axes", title: str = "") -> "Axes":
    """Axes without ticks, with a title."""
    axes.set_axis_on()
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, loc="left" if len(title) > 40 else "center")
    return axes
