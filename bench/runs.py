"""Write the validation scores of finished runs side by side into docs/results.md.

python -m bench.runs camvid runs/danet/version_0 runs/fcn/version_0
"""

import argparse
import json
from pathlib import Path
from typing import Any

from bench.marked import replace_marked
from bench.networks import DOCUMENT


def main() -> None:
    """Write the table between the marks ``camvid`` (or another name)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mark")
    parser.add_argument("runs", nargs="+", type=Path)
    args = parser.parse_args()
    replace_marked(DOCUMENT, args.mark, table([read(run) for run in args.runs]))


def read(run: Path) -> tuple[str, dict[str, Any]]:
    """The network of a run, and its scores on the validation images."""
    network = json.loads((run / "config.json").read_text())["model"]["name"]
    return network, json.loads((run / "metrics.json").read_text())["val"]


def table(runs: list[tuple[str, dict[str, Any]]]) -> str:
    """Markdown: one column for each run, one row for each score."""
    names = [name for name in runs[0][1] if name not in ("epoch", "step")]
    lines = [
        "| | " + " | ".join(network for network, _ in runs) + " |",
        "|---|" + "---|" * len(runs),
        "| step of the best validation | " + " | ".join(str(s["step"]) for _, s in runs) + " |",
    ]
    for name in names:
        cells = ["-" if s.get(name) is None else f"{100 * s[name]:.1f}" for _, s in runs]
        title = name.replace("iou/", "IoU ").replace("_", " ")
        lines.append(f"| {title} % | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
