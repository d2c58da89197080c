"""Train networks alike on real street images, and put their scores into docs/results.md.

    python -m bench.camvid DIR                          # what is missing; many hours on two cores
    python -m bench.camvid DIR --runs danet_plus fcn_plus --folds val 0001TP --seeds 0 1 2
    python -m bench.camvid DIR --table                  # only write the tables again

DIR is CamVid as a folder of images and masks (``images/SPLIT``, ``masks/SPLIT``). The fold ``val``
trains on train and scores val; any other fold is a drive of train: it is scored, and the other
drives are trained on. Every network gets the same windows in the same order, the same backbone,
optimiser and length. Each finished training is one line of bench/results/camvid.jsonl; what it
has is not trained again, so the command can be stopped and repeated.

``smp_*`` are networks of segmentation_models.pytorch (the extra ``bench``) in the same loop.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import tv_tensors

from bench.marked import replace_marked
from scenewise import create_model
from scenewise.data import FolderDataset
from scenewise.data.transforms import train_transform
from scenewise.models.segmenter import SegmenterOutput
from scenewise.training.losses import segmentation_loss
from scenewise.training.metrics.confusion import confusion_matrix, iou
from scenewise.training.optim import poly

RESULTS = Path(__file__).parent / "results" / "camvid.jsonl"
DOCUMENT = Path(__file__).parents[1] / "docs" / "results.md"
DRIVES = ("0001TP", "0006R0", "0016E5")
BACKBONE = "tf_efficientnet_lite0"
STEPS, BATCH, CROP = 800, 4, (352, 480)
LR, HEAD_LR, DECAY = 5e-4, 1e-3, 0.01
# Networks of the comparison; a setting behind a colon changes one thing
RUNS: dict[str, dict[str, Any]] = {
    "fcn": {},
    "fcn_plus": {},
    "deeplabv3plus": {},
    "danet": {},
    "danet_plus": {},
    "ccnet_plus": {},
    "smp_DeepLabV3Plus": {},
    "smp_Unet": {},
}
Pair = tuple[Tensor, Tensor]  # image (3, H, W) and mask (H, W), uint8


def main() -> None:
    """Train what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=RUNS)
    parser.add_argument("--folds", nargs="+", default=["val", *DRIVES])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="train nothing")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    wanted = [(run, fold, seed) for seed in args.seeds for fold in args.folds for run in args.runs]
    for key in () if args.table else wanted:
        if key not in {(line["run"], line["fold"], line["seed"]) for line in read()}:
            append(measure(args.root, *key))
    replace_marked(DOCUMENT, "camvid", table(read()))


def read() -> list[dict[str, Any]]:
    """The finished trainings."""
    return [json.loads(s) for s in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def append(line: dict[str, Any]) -> None:
    """Add one finished training, as one write."""
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), file=sys.stderr, flush=True)


def measure(root: Path, run: str, fold: str, seed: int) -> dict[str, Any]:
    """One training and its numbers."""
    torch.manual_seed(seed)
    train, held, classes, ignored = split(root, fold)
    model = network(run, classes)
    start = time.process_time()
    gammas, averaged = fit(model, windows(train, ignored, seed), ignored)
    minutes = (time.process_time() - start) / 60
    scores = evaluate(model, held, classes, ignored)
    model.load_state_dict(averaged)
    return {
        "run": run,
        "fold": fold,
        "seed": seed,
        "backbone": BACKBONE,
        "steps": STEPS,
        "iou": scores,
        "iou_averaged": evaluate(model, held, classes, ignored),
        "gammas": gammas,
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_minutes": round(minutes, 1),
    }


def split(root: Path, fold: str) -> tuple[list[Pair], list[Pair], int, int]:
    """Pairs to train on and to score, the number of classes, and the id that is ignored."""
    train = FolderDataset(root, "train")
    ids = range(len(train))
    if fold == "val":
        held_set, chosen = FolderDataset(root, "val"), list(ids)
        held = [held_set.read(i) for i in range(len(held_set))]
    else:
        held = [train.read(i) for i in ids if train.names[i].startswith(fold)]
        chosen = [i for i in ids if not train.names[i].startswith(fold)]
    pairs = [train.read(i) for i in chosen]
    return pairs, held, len(train.classes), train.classes.ignore_index


class Peer(nn.Module):
    """A network of segmentation_models.pytorch with a Segmenter's output."""

    def __init__(self, name: str, classes: int) -> None:
        super().__init__()
        import segmentation_models_pytorch as smp

        options = {"encoder_output_stride": 16} if name.startswith("DeepLab") else {}
        self.net = getattr(smp, name)(
            f"tu-{BACKBONE}", encoder_weights=None, classes=classes, **options
        )
        own = create_model("fcn", num_classes=classes, backbone=BACKBONE)  # with weights
        self.backbone = self.net.encoder
        self.loss_weights: dict[str, float] = {}
        self.normalize = own.normalize
        self.backbone.model.load_state_dict(own.backbone.net.state_dict())  # names agree

    def forward(self, images: Tensor) -> SegmenterOutput:
        """Normalised images -> logits, without auxiliary outputs."""
        height, width = images.shape[2:]
        padded = nn.functional.pad(images, (0, -width % 32, 0, -height % 32))
        return SegmenterOutput(self.net(padded)[..., :height, :width], {}, {})


def network(run: str, classes: int) -> Any:
    """The network of a run, its backbone with ImageNet weights."""
    name, _, setting = run.partition(":")
    if name.startswith("smp_"):
        return Peer(name.removeprefix("smp_"), classes).to(memory_format=torch.channels_last)
    model = create_model(name, num_classes=classes, backbone=BACKBONE, output_stride=16)
    if setting.startswith("gamma"):
        for key, parameter in model.named_parameters():
            if key.endswith("gamma"):
                nn.init.constant_(parameter, float(setting.removeprefix("gamma")))
    return model.to(memory_format=torch.channels_last)


def windows(pairs: list[Pair], ignored: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of random windows, the same for every network."""
    generator = torch.Generator().manual_seed(seed)
    transform = train_transform(CROP, ignore_index=ignored)
    order: list[int] = []
    step = 0
    while True:
        while len(order) < BATCH:
            order += torch.randperm(len(pairs), generator=generator).tolist()
        batch, order = order[:BATCH], order[BATCH:]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1_000_003 * seed + step)
            done = [
                transform(tv_tensors.Image(pairs[i][0]), tv_tensors.Mask(pairs[i][1]))
                for i in batch
            ]
        yield torch.stack([x for x, _ in done]), torch.stack([y for _, y in done]).long()
        step += 1


def fit(
    model: Any, batches: Iterator[tuple[Tensor, Tensor]], ignored: int
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Train; the gammas every 100 steps, and the exponential average of the weights."""
    body = set(model.backbone.parameters())
    rest = [p for p in model.parameters() if p not in body]
    groups = [{"params": list(body), "lr": LR}, {"params": rest, "lr": HEAD_LR}]
    optimizer = torch.optim.AdamW(groups, weight_decay=DECAY)
    factor: Callable[[int], float] = lambda step: poly(step, STEPS)  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    averaged = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True
    )
    gammas: list[dict[str, float]] = []
    model.train()
    for step in range(STEPS):
        images, masks = next(batches)
        inputs = model.normalize(images).contiguous(memory_format=torch.channels_last)
        output = model(inputs)
        loss = segmentation_loss(output, masks, model.loss_weights, ignore_index=ignored).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        averaged.update_parameters(model)
        if step % 100 == 99:
            own = {k: v for k, v in model.named_parameters() if k.endswith("gamma")}
            gammas.append({key: round(float(value), 4) for key, value in own.items()})
            print(step + 1, round(float(loss), 3), gammas[-1], file=sys.stderr, flush=True)
    return gammas, dict(averaged.module.state_dict())


@torch.inference_mode()
def evaluate(model: Any, pairs: list[Pair], classes: int, ignored: int) -> list[float | None]:
    """IoU of each class from one confusion matrix over whole images; None where absent."""
    model.eval()
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    for image, mask in pairs:
        logits = model(model.normalize(image[None])).logits  # (1, K, H, W)
        matrix += confusion_matrix(logits[0].argmax(0), mask.long(), classes, ignored)
    present = matrix.sum(1) > 0
    return [float(v) if p else None for v, p in zip(iou(matrix), present, strict=True)]


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown: mIoU of each fold, mean and range over the seeds, and the mean over the drives."""
    folds = ["val", *DRIVES]
    rows = [
        f"`{BACKBONE}`, {STEPS} steps of {BATCH} windows of {CROP[0]} x {CROP[1]}, stride 16; mIoU "
        "in percent (lowest to highest of the seeds), averaged weights behind a slash:",
        "",
        f"| network | {' | '.join(folds)} | mean of drives | CPU minutes |",
        "|---" * (len(folds) + 3) + "|",
    ]
    for run in sorted({line["run"] for line in lines}):
        of_run = [line for line in lines if line["run"] == run]
        cells = [cell([line for line in of_run if line["fold"] == fold]) for fold in folds]
        drives = [line for line in of_run if line["fold"] in DRIVES]
        complete = {line["fold"] for line in drives} == set(DRIVES)
        minutes = statistics.median(line["cpu_minutes"] for line in of_run)
        mean = cell(drives, spread=False) if complete else "-"
        rows.append(f"| {run} | {' | '.join(cells)} | {mean} | {minutes:.0f} |")
    return "\n".join(rows)


def cell(lines: list[dict[str, Any]], *, spread: bool = True) -> str:
    """Mean and range of the mIoU, and that of the averaged weights."""
    if not lines:
        return "-"
    plain = [miou(line["iou"]) for line in lines]
    averaged = statistics.fmean(miou(line["iou_averaged"]) for line in lines)
    seeds = f" ({min(plain):.1f} to {max(plain):.1f})" if spread and len(plain) > 1 else ""
    return f"{statistics.fmean(plain):.1f}{seeds} / {averaged:.1f}"


def miou(values: list[float | None]) -> float:
    """Mean in percent over the classes that the fold has."""
    return 100 * statistics.fmean(value for value in values if value is not None)


if __name__ == "__main__":
    main()
