"""Time and memory of attention against the number of pixels, from the rows of its bench."""

import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from scenewise.files import atomic_write

STYLES = {"forward": "-", "+ backward": "--"}


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Write the figure: a line for each block, forward and with backward."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, way in enumerate(dict.fromkeys(row["way"] for row in rows if _work(row))):
        for work, style in STYLES.items():
            found = [(_work(r), r) for r in rows if r["way"] == way and _work(r)]
            points = [(where[0], r) for where, r in found if where and where[1] == work]
            for axes, name in ((left, "seconds"), (right, "megabytes")):
                x, y = [n for n, _ in points], [r[name] for _, r in points]
                label = way if work == "forward" else None
                axes.plot(x, y, style, marker="o", markersize=3, color=f"C{index}", label=label)
    for axes, name in ((left, "seconds"), (right, "megabytes held at once")):
        axes.set(xscale="log", yscale="log", xlabel="pixels of the feature map", ylabel=name)
        axes.grid(alpha=0.3)
    left.legend(title="dashed: with backward", fontsize=8)
    with atomic_write(file) as temporary:
        figure.savefig(temporary, dpi=110, metadata={"Software": None})


def _work(row: dict[str, Any]) -> tuple[int, str] | None:
    """Pixels and kind of a row of the first part of the bench."""
    found = re.fullmatch(r"N = (\d+), (.*)", row["work"])
    return (int(found[1]), found[2]) if found else None
