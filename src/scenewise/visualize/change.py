"""A bar chart of what leaving something out changes, for each class."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from scenewise.visualize.panels import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def change_figure(names: Sequence[str], changes: Mapping[str, Sequence[float]]) -> "Figure":
    """Horizontal bars in points of IoU: a group for each class, a bar for each that is left out.

    Args:
        names: of the rows, from top to bottom.
        changes: by the name of what is left out, one number a row; NaN draws no bar.

    >>> figure = change_figure(["road", "pole"], {"a": [-1.5, 0.5], "b": [0.0, float("nan")]})
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['without a', 'without b']
    """
    thickness = 0.8 / max(1, len(changes))
    figure = new_figure(7.5, 1.6 + 0.12 * len(names) * (1 + len(changes)))
    axes = figure.subplots()
    for index, (left_out, values) in enumerate(changes.items()):
        places = [row + (index + 0.5) * thickness - 0.4 for row in range(len(names))]
        axes.barh(places, values, thickness, label=f"without {left_out}")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("change of IoU, in points (left of 0: the block helped)")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", fontsize=8)
    return figure
