"""Train networks alike on generated scenes, and put their scores into docs/results.md.

    python -m bench.networks                      # every network, seeds 0 1 2; hours on two cores
    python -m bench.networks fcn danet --steps 250 --seeds 0 1 2
    python -m bench.networks --time               # seconds a step; wants an idle machine
    python -m bench.networks --table              # only write the tables again

Each finished training is one line of bench/results/networks.jsonl; what it has is not trained
again, so the command can be stopped and repeated, and several can run on different seeds.
"""

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from bench.marked import replace_marked
from scenewise import list_models
from scenewise.apps.bench.measure import peak_bytes
from scenewise.apps.demo.experiment import BATCH, scenes_data, train_on_scenes
from scenewise.files import write_json
from scenewise.training.losses import segmentation_loss
from scenewise.training.task import SegmentationTask

RESULTS = Path(__file__).parent / "results" / "networks.jsonl"
DOCUMENT = Path(__file__).parents[1] / "docs" / "results.md"
TIMES = RESULTS.with_name("seconds_a_step.json")
MODELS = Path(__file__).parents[1] / ".cache" / "networks"
OWN_SETTINGS: dict[str, dict[str, Any]] = {"chain": {"contexts": ["aspp", "dual_attention"]}}


def main() -> None:
    """Train what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list_models())
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--time", action="store_true", help="measure seconds a step instead")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    runs = [(n, args.steps, s) for s in args.seeds for n in args.networks]
    if args.time:
        write_json(TIMES, {name: step_seconds(name) for name in args.networks})
    for network, steps, seed in () if args.table or args.time else runs:
        if (network, steps, seed) not in {key(line) for line in read()}:
            append(measure(network, steps, seed))
    write_tables(read())


def key(line: dict[str, Any]) -> tuple[str, int, int]:
    """The key of one training."""
    return line["network"], line["steps"], line["seed"]


def read() -> list[dict[str, Any]]:
    """The finished trainings."""
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def append(line: dict[str, Any]) -> None:
    """Add one finished training, as one write."""
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), file=sys.stderr, flush=True)


def measure(network: str, steps: int, seed: int) -> dict[str, Any]:
    """One training and its numbers; the model of seed 0 is kept for figures."""
    settings = OWN_SETTINGS.get(network, {})
    result = train_on_scenes(network, steps=steps, seed=seed, progress=False, **settings)
    if seed == 0:
        result.model.save_pretrained(MODELS / f"{network}-{steps}")
    return {
        "network": network,
        "steps": steps,
        "seed": seed,
        "miou": result.miou,
        "context_iou": result.context_iou,
        "pixel_accuracy": result.accuracy,
        "parameters": result.parameters,
        "megabytes": step_megabytes(network),
    }


def training_step(network: str) -> Callable[[], None]:
    """Forward and backward pass of one training batch."""
    data = scenes_data(1, (64, 192), 0)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    head = OWN_SETTINGS.get(network)
    task = SegmentationTask(
        data.classes, network=network, backbone="tiny", pretrained=False, head=head
    )
    model = task.model.train()
    images = model.normalize(batch["image"])

    def step() -> None:
        segmentation_loss(model(images), batch["mask"], model.loss_weights).total.backward()

    return step


def step_megabytes(network: str) -> float:
    """Most memory held at once in a training step beyond network and batch."""
    return peak_bytes(training_step(network)) / 1e6


def step_seconds(network: str, repeats: int = 9) -> float:
    """Median time of a training step."""
    step = training_step(network)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def write_tables(lines: Iterable[dict[str, Any]]) -> None:
    """One table for each number of steps that was trained with three seeds."""
    rows = list(lines)
    tables = [table(rows, steps) for steps in sorted({row["steps"] for row in rows})]
    replace_marked(DOCUMENT, "networks", "\n\n".join(tables))


def table(lines: list[dict[str, Any]], steps: int) -> str:
    """Markdown: mean and range over the seeds, best context IoU first."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if line["steps"] == steps:
            groups.setdefault(line["network"], []).append(line)
    seeds = sorted({line["seed"] for group in groups.values() for line in group})
    rows = [
        f"{steps} steps of {BATCH} scenes, seeds {', '.join(map(str, seeds))}; mean (lowest to "
        "highest):",
        "",
        "| network | mIoU % | context IoU % | parameters | seconds a step | peak MB |",
        "|---|---|---|---|---|---|",
    ]
    times = json.loads(TIMES.read_text()) if TIMES.exists() else {}
    ranked = sorted(groups.items(), key=lambda item: -mean(item[1], "context_iou"))
    for network, group in ranked:
        rows.append(
            f"| {network} | {spread(group, 'miou')} | {spread(group, 'context_iou')} | "
            f"{group[0]['parameters']:,} | {times.get(network, float('nan')):.3f} | "
            f"{median(group, 'megabytes'):.0f} |"
        )
    return "\n".join(rows)


def mean(group: list[dict[str, Any]], name: str) -> float:
    """Over the seeds."""
    return statistics.fmean(line[name] for line in group)


def median(group: list[dict[str, Any]], name: str) -> float:
    """Over the seeds."""
    return statistics.median(line[name] for line in group)


def spread(group: list[dict[str, Any]], name: str) -> str:
    """Mean, lowest and highest in percent."""
    values = [100 * line[name] for line in group]
    return f"{statistics.fmean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
