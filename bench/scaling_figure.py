"""Figure of time and memory of attention against the number of pixels."""

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
    for index, variant in enumerate(dict.fromkeys(row["variant"] for row in rows if _work(row))):
        for work, style in STYLES.items():
            works = [(_work(r), r) for r in rows if r["variant"] == variant]
            points = [(key[0], r) for key, r in works if key and key[1] == work]
            for axes, name in ((left, "seconds"), (right, "megabytes")):
                x, y = [n for n, _ in points], [r[name] for _, r in points]
                label = variant if work == "forward" else None
                axes.plot(x, y, style, marker="o", markersize=3, color=f"C{index}", label=label)
    for axes, name in ((left, "seconds"), (right, "peak megabytes")):
        axes.set(xscale="log", yscale="log", xlabel="pixels of the feature map", ylabel=name)
        axes.grid(alpha=0.3)
    left.legend(title="dashed: with backward", fontsize=8)
    with atomic_write(file) as temporary:
        figure.savefig(temporary, dpi=110, metadata={"Software": None})


def _work(row: dict[str, Any]) -> tuple[int, str] | None:
    """Pixels and step of a row of the first part of the benchmark; None for other rows."""
    match = re.fullmatch(r"N = (\d+), (.*)", row["work"])
    return (int(match[1]), match[2]) if match else None
