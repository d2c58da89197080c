"""Panels that show weights of an image's pixels, of attention or gradients, as a spotlight.

All panels have one scale: times the average weight, logarithmic, transparent at the average. What
has less is darkened, what has more is tinted, so nearly uniform weights look as they are.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from scenewise.classes import Classes
from scenewise.visualize.statistics import attended_shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap, LogNorm
    from matplotlib.figure import Figure, SubFigure

LEVELS = (2, 8, 32)  # times the average, of the contour lines
_LINES = ("#fff7bc", "#fec44f", "#ff5a1f")
_RANGE = 32.0  # the scale ends at this many times the average, and at one of as many parts of it
_DARK, _TINT = 0.75, 0.4  # opacities at the ends of the scale
_BARS = 5


def spotlight(axes: "Axes", image: Tensor, weights: Tensor, *, align_corners: bool) -> None:
    """Draw an image under the weights of one pixel, with contour lines at ``LEVELS``.

    Args:
        axes: to draw into.
        image: (3, H, W) in 0..1.
        weights: (h, w), its attention or gradients; negative weights are drawn as none.
        align_corners: how (h, w) is upsampled to (H, W).
    """
    height, width = image.shape[1:]
    average = weights.mean()
    times = (weights / average if average != 0 else weights).clamp(min=0)  # 1 is the average
    shown = F.interpolate(
        times[None, None], (height, width), mode="bilinear", align_corners=align_corners
    )[0, 0]
    axes.imshow(image.permute(1, 2, 0).cpu().numpy())
    axes.imshow(shown.clamp(min=1 / _RANGE).cpu().numpy(), cmap=_colors(), norm=_scale())
    levels = [level for level in LEVELS if level < float(shown.max())]
    if levels:
        colors = _LINES[: len(levels)]
        axes.contour(shown.cpu().numpy(), levels=levels, colors=colors, linewidths=1.2)


def scale_bar(part: "Figure | SubFigure", axes: "Axes", title: str) -> None:
    """The colour bar of all spotlights, in ``axes``."""
    from matplotlib.cm import ScalarMappable

    mappable = ScalarMappable(_scale(), _colors())
    bar = part.colorbar(mappable, cax=axes, orientation="horizontal", extend="both")
    ticks = (1 / 32, 1 / 8, 1, *LEVELS)
    bar.set_ticks(ticks, labels=["1/32", "1/8", "1", "2", "8", "32"])
    bar.ax.minorticks_off()
    bar.ax.set_title(title, loc="left")
    for level, color in zip(LEVELS, _LINES, strict=True):
        bar.ax.axvline(level, color=color, linewidth=2)


def class_bars(
    axes: "Axes", weights: Tensor, labels: Tensor, classes: Classes, *, title: str
) -> None:
    """The classes that most of the weights (h, w) fall on, as bars.

    A line in each bar is the share of the image that has the class: what uniform weights give.

    Args:
        axes: to draw into.
        weights: (h, w).
        labels: (H, W) class ids of the same area.
        classes: names and colours.
        title: above the bars.
    """
    share = attended_shares(weights, labels, len(classes)).cpu()
    of_image = attended_shares(torch.ones_like(weights), labels, len(classes)).cpu()
    most = share.argsort(descending=True)[: min(_BARS, len(classes))].tolist()
    most = [k for k in most if share[k] > 0 or of_image[k] > 0]
    colors = ["#{:02x}{:02x}{:02x}".format(*classes.colors[k]) for k in most]
    positions = list(range(len(most)))
    percents = [100 * float(share[k]) for k in most]
    axes.barh(positions, percents, color=colors, edgecolor="black", linewidth=0.5)
    for position, k, percent in zip(positions, most, percents, strict=True):
        even = 100 * float(of_image[k])
        axes.plot([even, even], [position - 0.4, position + 0.4], color="black", linewidth=1.5)
        axes.text(max(percent, even) + 2, position, f"{percent:.0f} %", va="center")
    axes.set_yticks(positions, [classes.names[k] for k in most])
    axes.set(xlim=(0, 118), ylim=(len(most) - 0.5, -0.5), xticks=[])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_title(title, loc="left")


def _scale() -> "LogNorm":
    from matplotlib.colors import LogNorm

    return LogNorm(1 / _RANGE, _RANGE, clip=True)


def _colors() -> "LinearSegmentedColormap":
    """Black below the average, transparent at it, orange above."""
    from matplotlib.colors import LinearSegmentedColormap

    stops = [
        (0.0, (0.0, 0.0, 0.0, _DARK)),
        (0.5, (0.0, 0.0, 0.0, 0.0)),
        (0.5, (1.0, 0.75, 0.2, 0.0)),
        (1.0, (1.0, 0.35, 0.0, _TINT)),
    ]
    return LinearSegmentedColormap.from_list("attention", stops)
