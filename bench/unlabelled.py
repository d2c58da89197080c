"""What images without labels are worth: a share of the labels of CamVid, alone and with the rest.

    python -m bench.unlabelled DIR                      # what is missing; under an hour on one core
    python -m bench.unlabelled DIR --shares 8 --seeds 1
    python -m bench.unlabelled DIR --table              # only write the table again

DIR is CamVid as a folder of images and masks. One in 8, 4 or 2 of the training images keeps its
label (a seeded choice, the smaller ones inside the larger); the other training images are used
without their labels, or not at all. Both trainings see the same labelled windows in the same order
and take the same number of steps, in images of a third of the side; val is scored. Each finished
training is one line of bench/results/unlabelled.jsonl; what it has is not trained again.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from bench.camvid import (
    BACKBONE,
    DOCUMENT,
    Pair,
    Protocol,
    Training,
    _Pairs,
    evaluate,
    miou,
    network,
    split,
    windows,
)
from bench.marked import replace_marked
from scenewise.data.two_views import TwoViews
from scenewise.training.balance import balanced_weights
from scenewise.training.losses import cross_entropy, segmentation_loss
from scenewise.training.moving_average import moving_average
from scenewise.training.overlap_losses import dice_loss
from scenewise.training.pseudo_labels import cut_mix, ramp, taught_labels

RESULTS = Path(__file__).parent / "results" / "unlabelled.jsonl"
NETWORK = "danet_plus"
THRESHOLD, WEIGHT, RAMP, EMA = 0.95, 1.0, 0.1, 0.99  # the defaults of fit
_PROTOCOL = Protocol(3, (112, 160), 200, warmup=10)  # 5 % of the steps, as fit


class Run(NamedTuple):
    """What names a training: one in ``share`` images has a label.

    The threshold is that of the pseudo-labels.
    """

    share: int
    unlabelled: bool
    seed: int
    threshold: float


def main() -> None:
    """Train what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--shares", type=int, nargs="+", default=[8, 4, 2])
    parser.add_argument("--kinds", nargs="+", choices=["alone", "more"], default=["alone", "more"])
    parser.add_argument("--threshold", type=float, default=THRESHOLD)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--table", action="store_true", help="train nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    kinds = [kind == "more" for kind in args.kinds]
    wanted = [
        Run(share, more, seed, args.threshold if more else THRESHOLD)
        for seed in args.seeds
        for share in args.shares
        for more in kinds
    ]
    for run in () if args.table else wanted:
        if run not in {Run(*(line[name] for name in Run._fields)) for line in read()}:
            append(measure(args.root, run))
    replace_marked(DOCUMENT, "unlabelled", table(read()))


def read() -> list[dict[str, Any]]:
    """The finished trainings."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return [{"threshold": THRESHOLD} | json.loads(line) for line in lines]


def append(line: dict[str, Any]) -> None:
    """Add one finished training, as one write."""
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), file=sys.stderr, flush=True)


def measure(root: Path, run: Run) -> dict[str, Any]:
    """One training and its numbers."""
    torch.manual_seed(run.seed)
    train, held, classes = split(root, "val", _PROTOCOL.factor)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).tolist()
    count = round(len(train) / run.share)
    labelled, others = [train[i] for i in order[:count]], [train[i] for i in order[count:]]
    model = network(NETWORK, {}, len(classes))
    start = time.process_time()
    used = others if run.unlabelled else []
    training = SemiSupervised(model, used, run, classes.ignore_index)
    counts = torch.stack([torch.bincount(y.flatten(), minlength=256) for _, y in labelled]).sum(0)
    training.class_weights = torch.tensor(balanced_weights(counts[: len(classes)].tolist()))
    training.run(windows(_Pairs(labelled, classes), _PROTOCOL, {}, run.seed))
    minutes = (time.process_time() - start) / 60
    scores = evaluate(model, held, classes)
    model.load_state_dict(training.averaged.module.state_dict())
    return run._asdict() | {
        "labelled": count,
        "others": len(used),
        "iou": scores,
        "iou_averaged": evaluate(model, held, classes),
        "confident": training.confident,
        "cpu_minutes": round(minutes, 1),
    }


class SemiSupervised(Training):
    """The training of ``bench.camvid``, and a loss on images without labels where there are any."""

    def __init__(self, model: Any, images: list[Pair], run: Run, ignored: int) -> None:
        super().__init__(model, {"loss": "cross_entropy+dice"}, _PROTOCOL, ignored)
        self.averaged = AveragedModel(model, multi_avg_fn=moving_average(EMA), use_buffers=True)
        self.images, self.seed, self.threshold = images, run.seed, run.threshold
        self.views = self.batches() if images else None
        self.done = 0
        self.confident: list[float] = []  # share of the pixels that counted, every 50 steps

    def batches(self) -> Iterator[dict[str, Tensor]]:
        """Endless batches of two views, drawn apart from the labelled windows."""
        make, step = TwoViews(self.protocol.crop), 0
        while True:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(7_000_003 * (self.seed + 1) + step)
                chosen = torch.randint(len(self.images), (self.protocol.batch,)).tolist()
                views = [make(self.images[i][0]) for i in chosen]
            yield {name: torch.stack([view[name] for view in views]) for name in views[0]}  # type: ignore[literal-required]
            step += 1

    def step(self, images: Tensor, masks: Tensor) -> float:
        """One step; the loss."""
        batch = None if self.views is None else next(self.views)
        both, labels = images, None
        if batch is not None:
            labels = self.teach(batch)
            both = torch.cat((images, cut_mix(batch["strong"], batch["box"])))
        inputs = self.model.normalize(both).contiguous(memory_format=torch.channels_last)
        with self.autocast():
            output = self.model(inputs)
        own = output._replace(
            logits=output.logits[: len(images)],
            auxiliary={name: logits[: len(images)] for name, logits in output.auxiliary.items()},
        )
        loss = segmentation_loss(
            own,
            masks,
            self.model.loss_weights,
            class_weights=self.class_weights,
            ignore_index=self.ignored,
            overlap=dice_loss,
        ).total
        if labels is not None:
            extra = cross_entropy(output.logits[len(images) :], labels, ignore_index=self.ignored)
            loss = loss + WEIGHT * ramp(self.done, round(RAMP * self.protocol.steps)) * extra
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.averaged.update_parameters(self.model)
        self.done += 1
        return float(loss.detach())

    def teach(self, batch: dict[str, Tensor]) -> Tensor:
        """Pseudo-labels of the mixed windows."""
        teacher = self.averaged.module.eval()
        inputs = teacher.normalize(batch["weak"]).contiguous(memory_format=torch.channels_last)
        with self.autocast():
            labels = taught_labels(
                teacher, inputs, batch["known"], threshold=self.threshold, ignore_index=self.ignored
            )
        if self.done % 50 == 49:
            share = (labels != self.ignored).sum() / batch["known"].sum()
            self.confident.append(round(float(share), 3))
        return cut_mix(labels, batch["box"])

    def autocast(self) -> torch.autocast:
        """bfloat16 where the processor has it, as ``bench.camvid``."""
        enabled = torch.cpu._is_avx512_bf16_supported()
        return torch.autocast("cpu", torch.bfloat16, enabled=enabled)


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown: mIoU with and without the other images, a row for each threshold."""
    crop = _PROTOCOL.crop
    rows = [
        f"`{NETWORK}` on `{BACKBONE}`, {_PROTOCOL.steps} steps of {_PROTOCOL.batch} labelled "
        f"windows of {crop[0]} x {crop[1]} (and as many without labels), weight {WEIGHT:g}; mIoU "
        "in percent on val of the last weights, that of the averaged ones behind a slash:",
        "",
        "| labelled images | others | threshold | pixels that count | mIoU | CPU minutes |",
        "|---|---|---|---|---|---|",
    ]
    for line in sorted(lines, key=lambda s: (-s["share"], s["seed"], s["others"], -s["threshold"])):
        known = f"{line['labelled']} (1/{line['share']})"
        used = "not used | - | -"
        if line["unlabelled"]:
            last = f"{100 * line['confident'][-1]:.1f} %" if line["confident"] else "-"
            used = f"{line['others']} unlabelled | {line['threshold']} | {last} at the end"
        scores = f"{miou(line['iou']):.1f} / {miou(line['iou_averaged']):.1f}"
        rows.append(f"| {known} | {used} | {scores} | {line['cpu_minutes']:.1f} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
