"""Cached features beside full tuning, at equal CPU time; writes docs/results.md.

    OMP_NUM_THREADS=1 python -m bench.features DIR    # what is missing
    python -m bench.features DIR --table              # only write the table again
    python -m bench.features DIR --costs --network fcn  # only time steps and features

DIR is CamVid as a folder of images and masks (``images/SPLIT``, ``masks/SPLIT``). Each way of
training is `scenewise.fit` with its defaults and as many steps as fit into the minutes, as a few
steps measure them; computing the features counts, the one validation at the end does not. Each
finished training is one line of bench/results/features.jsonl.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

import scenewise
from bench.marked import replace_marked
from scenewise.data import SegmentationData
from scenewise.training.defaults import default_precision
from scenewise.training.task import SegmentationTask

RESULTS = Path(__file__).parent / "results" / "features.jsonl"
DOCUMENT = Path(__file__).parents[1] / "docs" / "results.md"
BACKBONE = "tf_efficientnet_lite0"
WAYS: dict[str, dict[str, Any]] = {
    "everything is tuned": {},
    "`--model.freeze backbone`": {"freeze": "backbone"},
    "`--model.freeze backbone --data.cache_features 4`": {
        "freeze": "backbone",
        "cache_features": 4,
    },
}


def main() -> None:
    """Train what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--minutes", type=float, default=4.0, help="CPU minutes of each")
    parser.add_argument("--crop", type=int, nargs=2, default=(176, 240), help="of the training")
    parser.add_argument("--network", default="danet_plus")
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--costs", action="store_true", help="only time a few steps")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for way in WAYS if args.costs else ():
        step, once = costs(*parts(args.root, args.network, args.crop, WAYS[way]))
        print(f"{args.network}, {way}: {step:.2f} s a step, {once:.0f} s for features")
    if args.costs:
        return
    for way in () if args.table else reversed(WAYS):
        about = {
            "way": way,
            "network": args.network,
            "minutes": args.minutes,
            "crop": list(args.crop),
        }
        if not any(about.items() <= line.items() for line in read()):
            line = about | measure(args.root, about, WAYS[way])
            with RESULTS.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), file=sys.stderr, flush=True)
    replace_marked(DOCUMENT, "cached_features", table(read()))


def read() -> list[dict[str, Any]]:
    """The finished trainings."""
    return [json.loads(s) for s in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def measure(root: Path, about: dict[str, Any], way: dict[str, Any]) -> dict[str, Any]:
    """One training and its numbers."""
    torch.manual_seed(0)
    data, task = parts(root, about["network"], about["crop"], way)
    step, once = costs(data, task)
    steps = int((60 * about["minutes"] - once) / step)
    clock = Clock()
    run = scenewise.fit(
        data,
        network=about["network"],
        backbone=BACKBONE,
        freeze=way.get("freeze"),
        accelerator="cpu",
        max_steps=steps,
        check_val_every_n_epoch=None,
        val_check_interval=steps,
        num_sanity_val_steps=0,
        callbacks=[clock],
        enable_progress_bar=False,
        root=tempfile.mkdtemp(),
    )
    return {
        "steps": steps,
        "miou": run.scores["miou"],
        "cpu_minutes": round(clock.seconds / 60, 2),
        "cache_minutes": round(clock.cached / 60, 2),
        "step_seconds": round((clock.seconds - clock.cached) / steps, 3),
    }


def parts(
    root: Path, network: str, crop: list[int], way: dict[str, Any]
) -> tuple[SegmentationData, SegmentationTask]:
    """Data and network of a training."""
    views, size = way.get("cache_features"), (crop[0], crop[1])
    data = SegmentationData(
        root=str(root), num_workers=0, crop_size=size, batch_size=4, cache_features=views
    )
    options = {"network": network, "backbone": BACKBONE, "freeze": way.get("freeze")}
    return data, SegmentationTask(data.classes, data.images, **options)


def costs(data: SegmentationData, task: SegmentationTask) -> tuple[float, float]:
    """CPU seconds of a step, and of all features."""
    views: Any = data.cache_features
    data.setup("fit")
    loader = iter(data.view_loader(1))
    task.train()
    mixed = default_precision(task.model, "cpu") is not None
    spent: list[tuple[float, float]] = []
    for _ in range(4):
        start = time.process_time()
        batch = next(loader)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            if views is None:
                task.losses(batch["image"], batch["mask"]).total.backward()
                spent.append((time.process_time() - start, 0.0))
                continue
            features = [x.detach() for x in task.features(batch["image"])]
            computed = time.process_time()
            task.losses_of_features(features, batch["mask"]).total.backward()
        spent.append((time.process_time() - computed, computed - start))
    step, forward = (sorted(column)[1] for column in zip(*spent, strict=True))
    images = len(data.dataset("train"))
    return step, forward * (views or 0) * images / (data.batch_size or 1)


class Clock(Callback):
    """CPU seconds of the training without its validation."""

    def __init__(self) -> None:
        self.began = self.seconds = self.cached = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """The first callback: before features are computed."""
        self.began = time.process_time()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, index: int
    ) -> None:
        """The first batch comes after them."""
        self.cached = self.cached or time.process_time() - self.began

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """So far."""
        self.seconds = time.process_time() - self.began


def table(lines: list[dict[str, Any]]) -> str:
    """One row a training."""
    rows = [
        f"| {line['network']} | {line['way']} | {line['steps']} | {line['step_seconds']} | "
        f"{line['cpu_minutes']:.1f} | {line['cache_minutes']:.1f} | {100 * line['miou']:.1f} |"
        for line in lines
    ]
    head = [*("network", "trained", "steps", "CPU seconds a step", "CPU minutes")]
    head += ["of them features", "val mIoU %"]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows])


if __name__ == "__main__":
    main()
