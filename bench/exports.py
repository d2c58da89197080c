"""Export networks to every runtime, and put the tables into docs/results.md.

    python -m bench.exports            # about ten minutes on two cores
    python -m bench.exports fcn danet  # only these, printed, not written

The first table has every network on a small backbone, with random weights and batch-norm
statistics, so that every attention block changes its input. The second runs networks on ResNet-50
on one image of 512 x 1024: each runtime once to warm up, then in turn; the mean of two runs.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.marked import replace_marked
from scenewise.errors import UserError
from scenewise.exports import export_model, load_exported
from scenewise.exports.pt2 import Pt2Engine
from scenewise.models import Segmenter, create_model, list_models
from tests.attention.contract import randomise

DOCUMENT = Path(__file__).parents[1] / "docs" / "results.md"
RUNTIMES = {"onnxruntime": ".onnx", "openvino": ".xml", "pt2": ".pt2"}
TIMED = ("danet", "ccnet", "fcn", "deeplabv3", "pspnet")
SIZE = (512, 1024)
ROUNDS = 2
SLOW = {"ocnet_pyramid"}  # exported in one format: 50 attentions take the exporters minutes

Run = Callable[[Tensor], Tensor]


class Cell(NamedTuple):
    """One network in one runtime: largest relative difference, least agreement of labels."""

    relative: float
    agreement: float

    def __str__(self) -> str:
        return f"{self.relative:.1e}, {100 * self.agreement:.2f} %"


def network(name: str, backbone: str) -> Segmenter:
    """Random weights and statistics. A ResNet keeps its own, so that logits stay finite."""
    more: dict[str, Any] = {"contexts": ["aspp", "dual_attention"]} if name == "chain" else {}
    torch.manual_seed(0)
    model = create_model(name, num_classes=19, backbone=backbone, pretrained=False, **more)
    randomise(model if backbone == "tiny" else model.head)
    return model.eval()


def cell(model: Segmenter, file: Path) -> str:
    """Export and compare; the text of a table cell."""
    try:
        differences = export_model(model, file).differences
    except UserError as error:
        print(f"{file.name}: {error}", file=sys.stderr)
        return "**no**"
    return str(Cell(max(d.relative for d in differences), min(d.agreement for d in differences)))


def exactness(names: Sequence[str], folder: Path) -> list[str]:
    """A row for each network: the largest difference, and the labels that agree, by runtime."""
    lines = [f"| network | {' | '.join(RUNTIMES)} |", "|---|" + "---|" * len(RUNTIMES)]
    for name in names:
        model, cells = network(name, "tiny"), []
        for runtime, suffix in RUNTIMES.items():
            skipped = name in SLOW and runtime != "onnxruntime"
            cells.append("not run" if skipped else cell(model, folder / f"{name}{suffix}"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


@torch.no_grad()
def speed(names: Sequence[str], folder: Path) -> list[str]:
    """A row for each network: seconds per image, by runtime, and the differences at that size."""
    heads = ["torch", *RUNTIMES]
    columns = [*(f"{name} s" for name in heads), *(f"{name} difference" for name in RUNTIMES)]
    lines = [f"| network | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    images = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    for name in names:
        model = network(name, "resnet50")
        runs = {"torch": _logits(model), **_engines(model, folder / name)}
        given = {runtime: run(images) for runtime, run in runs.items()}
        seconds = _seconds(runs, images)
        row = [f"{seconds[runtime]:.2f}" for runtime in heads]
        row += [str(_cell(given["torch"], given[runtime])) for runtime in RUNTIMES]
        lines.append(f"| {name} | {' | '.join(row)} |")
        print(lines[-1], flush=True)
    return lines


def _engines(model: Segmenter, stem: Path) -> dict[str, Run]:
    files = {runtime: stem.with_suffix(suffix) for runtime, suffix in RUNTIMES.items()}
    for file in files.values():
        export_model(model, file)
    return {
        runtime: Pt2Engine(file) if runtime == "pt2" else _logits(load_exported(file))
        for runtime, file in files.items()
    }


def _logits(model: Segmenter) -> Run:
    return lambda images: model(images).logits


def _seconds(runs: dict[str, Run], images: Tensor) -> dict[str, float]:
    """Means; the runtimes take turns, so that a busy machine affects all of them."""
    taken: dict[str, list[float]] = {runtime: [] for runtime in runs}
    for _ in range(ROUNDS):
        for runtime, run in runs.items():
            start = time.perf_counter()
            run(images)
            taken[runtime].append(time.perf_counter() - start)
    return {runtime: statistics.mean(values) for runtime, values in taken.items()}


def _cell(expected: Tensor, given: Tensor) -> Cell:
    relative = (given - expected).abs().max() / expected.abs().max()
    same = (given.argmax(1) == expected.argmax(1)).double().mean()
    return Cell(float(relative), float(same))


def main(names: Sequence[str]) -> None:
    """Both tables."""
    with tempfile.TemporaryDirectory() as folder:
        exact = exactness(names or list_models(), Path(folder))
        timed = speed([n for n in TIMED if not names or n in names], Path(folder))
    if not names:
        cores = f"{torch.get_num_threads()} threads, {SIZE[0]} x {SIZE[1]} pixels, ResNet-50:"
        replace_marked(DOCUMENT, "exports", "\n".join([*exact, "", cores, "", *timed]))


if __name__ == "__main__":
    main(sys.argv[1:])
