"""Train networks alike on real street images, and put their scores into docs/results.md.

    python -m bench.camvid DIR                          # what is missing; many hours on two cores
    python -m bench.camvid DIR --runs danet_plus fcn_plus --folds val 0001TP --seeds 0 1 2
    python -m bench.camvid DIR --protocol half          # images of half the side, 3 minutes a run
    python -m bench.camvid DIR --table                  # only write the tables again

DIR is CamVid as a folder of images and masks (``images/SPLIT``, ``masks/SPLIT``). The fold ``val``
trains on train and scores val; any other fold is a drive of train: it is scored, and the other
drives are trained on. Every network gets the same windows in the same order, the same backbone,
optimiser and length, bfloat16 where the processor has it, and our fast depthwise convolutions.
Each finished training is one line of bench/results/camvid.jsonl; what it has is not trained again,
so the command can be stopped and repeated.

``smp_*`` are networks of segmentation_models.pytorch (the extra ``bench``) in the same loop.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from bench.marked import replace_marked
from scenewise import create_model
from scenewise.classes import Classes
from scenewise.data import FolderDataset, SegmentationDataset
from scenewise.data.datasets import Transform, collate
from scenewise.data.mixing import Mix, Windows
from scenewise.data.transforms import train_transform
from scenewise.models.optimize.depthwise import fast_depthwise
from scenewise.models.segmenter import SegmenterOutput
from scenewise.training.balance import balanced_weights
from scenewise.training.losses import segmentation_loss
from scenewise.training.metrics.confusion import confusion_matrix, iou
from scenewise.training.optim import poly
from scenewise.training.overlap_losses import dice_loss

RESULTS = Path(__file__).parent / "results" / "camvid.jsonl"
DOCUMENT = Path(__file__).parents[1] / "docs" / "results.md"
DRIVES = ("0001TP", "0006R0", "0016E5")
BACKBONE = "tf_efficientnet_lite0"
LR, HEAD_LR, DECAY = 5e-4, 1e-3, 0.01


class Protocol(NamedTuple):
    """Size of the images and length of a training."""

    factor: int
    crop: tuple[int, int]
    steps: int
    warmup: int = 0
    decay: float = 0.99  # of the averaged weights
    batch: int = 4


PROTOCOLS = {
    "full": Protocol(1, (352, 480), 800),
    "hour": Protocol(1, (352, 480), 1600, warmup=100, decay=0.998),
    "half": Protocol(2, (176, 240), 300),
}
# Networks of the comparison
RUNS = (
    *("danet_plus", "fcn_plus", "smp_DeepLabV3Plus", "danet", "fcn"),
    *("deeplabv3plus", "ccnet_plus", "smp_Unet"),
)
# What a run may change, as NETWORK:SETTING=VALUE,...
SETTINGS = (
    *("gamma", "rate", "loss", "stride", "backbone", "steps", "width", "head_lr", "balance"),
    *("rare", "paste", "mosaic"),  # shares of the windows
    "inner",  # 0: no norm and ReLU inside the separable convolutions of the decoder
)
Pair = tuple[Tensor, Tensor]  # image (3, H, W) and mask (H, W), uint8


def main() -> None:
    """Train what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--protocol", default="full", choices=PROTOCOLS)
    parser.add_argument("--runs", nargs="+", default=list(RUNS), help="NETWORK[:SETTING=VALUE,...]")
    parser.add_argument("--folds", nargs="+", default=["val", *DRIVES])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for the averaged models of ours")
    parser.add_argument("--table", action="store_true", help="train nothing")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    wanted = [
        Run(args.protocol, run, fold, seed)
        for seed in args.seeds
        for run in args.runs
        for fold in args.folds
    ]
    for run in () if args.table else wanted:
        if run not in {Run(*(line[name] for name in Run._fields)) for line in read()}:
            append(measure(args.root, run, args.keep))
    replace_marked(DOCUMENT, "camvid_alike", tables(read()))


class Run(NamedTuple):
    """What names a training."""

    protocol: str
    run: str
    fold: str
    seed: int


def read() -> list[dict[str, Any]]:
    """The finished trainings."""
    return [json.loads(s) for s in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def append(line: dict[str, Any]) -> None:
    """Add one finished training, as one write."""
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), file=sys.stderr, flush=True)


def measure(root: Path, run: Run, keep: Path | None) -> dict[str, Any]:
    """One training and its numbers."""
    torch.manual_seed(run.seed)
    name, given = settings(run.run)
    protocol = PROTOCOLS[run.protocol]
    protocol = protocol._replace(steps=int(given.get("steps", protocol.steps)))
    train, held, classes = split(root, run.fold, protocol.factor)
    model = network(name, given, len(classes))
    start = time.process_time()
    training = Training(model, given, protocol, classes.ignore_index)
    if "balance" in given:
        counts = torch.stack([torch.bincount(y.flatten(), minlength=256) for _, y in train]).sum(0)
        training.class_weights = torch.tensor(balanced_weights(counts[: len(classes)].tolist()))
    training.run(windows(_Pairs(train, classes), protocol, given, run.seed))
    minutes = (time.process_time() - start) / 60
    scores = evaluate(model, held, classes)
    model.load_state_dict(training.averaged.module.state_dict())
    averaged = evaluate(model, held, classes)
    if keep is not None and not isinstance(model, Peer):
        model.classes = classes
        model.save_pretrained(keep / "-".join(map(str, run)).replace(":", "_"))
    return run._asdict() | {
        "iou": scores,
        "iou_averaged": averaged,
        "gammas": training.gammas,
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_minutes": round(minutes, 1),
    }


def settings(run: str) -> tuple[str, dict[str, str]]:
    """Network and settings of a run.

    >>> settings("danet_plus:gamma=1,loss=cross_entropy+dice")
    ('danet_plus', {'gamma': '1', 'loss': 'cross_entropy+dice'})
    """
    name, _, rest = run.partition(":")
    given = dict(word.split("=") for word in rest.split(",") if word)
    if unknown := given.keys() - set(SETTINGS):
        raise SystemExit(f"unknown settings {sorted(unknown)}; known: {', '.join(SETTINGS)}")
    return name, given


def split(root: Path, fold: str, factor: int) -> tuple[list[Pair], list[Pair], Classes]:
    """Pairs to train on and to score, and the classes; images and masks divided by ``factor``."""
    train = FolderDataset(root, "train")
    held = FolderDataset(root, "val") if fold == "val" else train
    scored = [i for i, n in enumerate(held.names) if fold == "val" or n.startswith(fold)]
    chosen = [i for i, n in enumerate(train.names) if fold == "val" or not n.startswith(fold)]
    pairs = [smaller(train.read(i), factor) for i in chosen]
    return pairs, [smaller(held.read(i), factor) for i in scored], train.classes


def smaller(pair: Pair, factor: int) -> Pair:
    """The image and the mask with sides divided by ``factor``."""
    if factor == 1:
        return pair
    size = [side // factor for side in pair[1].shape]
    nearest = InterpolationMode.NEAREST_EXACT
    return resize(pair[0], size, antialias=True), resize(pair[1][None], size, nearest)[0]


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


def network(name: str, given: dict[str, str], classes: int) -> Any:
    """The network of a run, its backbone with ImageNet weights."""
    if name.startswith("smp_"):
        if ours := given.keys() & {"gamma", "rate", "stride", "backbone", "width", "inner"}:
            raise SystemExit(f"{sorted(ours)} would change nothing in {name}; leave them out")
        model: Any = Peer(name.removeprefix("smp_"), classes)
    else:
        backbone, stride = given.get("backbone", BACKBONE), int(given.get("stride", 16))
        options = {"width": int(given["width"])} if "width" in given else {}
        model = create_model(
            name, num_classes=classes, backbone=backbone, output_stride=stride, **options
        )
    scales = [p for key, p in named(model) if key.endswith("gamma")]
    if not scales and given.keys() & {"gamma", "rate"}:
        raise SystemExit(f"{name} has no gamma; leave gamma and rate out")
    for scale in scales if "gamma" in given else ():
        nn.init.constant_(scale, float(given["gamma"]))
    if "inner" in given:
        if given["inner"] != "0" or not hasattr(model.head, "fuse"):
            raise SystemExit("inner is 0, for a network with a decoder (low_level), or left out")
        for layer in model.head.fuse:
            layer[0] = layer[0][0]  # the depthwise convolution alone
    fast_depthwise(model)
    return model.to(memory_format=torch.channels_last)


class _Pairs(SegmentationDataset):
    """Pairs in memory as a dataset."""

    def __init__(self, pairs: list[Pair], classes: Classes) -> None:
        super().__init__([str(i) for i in range(len(pairs))], classes)
        self.pairs = pairs

    def read(self, index: int) -> Pair:
        return self.pairs[index]


def windows(
    pairs: _Pairs, protocol: Protocol, given: dict[str, str], seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of random windows, the same for every network."""
    generator = torch.Generator().manual_seed(seed)
    pairs.transform = mixed(pairs, protocol.crop, given)
    order: list[int] = []
    step = 0
    while True:
        while len(order) < protocol.batch:
            order += torch.randperm(len(pairs), generator=generator).tolist()
        batch, order = order[: protocol.batch], order[protocol.batch :]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1_000_003 * seed + step)
            done = collate([pairs[i] for i in batch])
        yield done["image"], done["mask"]  # type: ignore[misc]
        step += 1


def mixed(pairs: _Pairs, crop: tuple[int, int], given: dict[str, str]) -> Transform:
    """The transform to windows, with the shares of the settings."""
    make = partial(train_transform, ignore_index=pairs.classes.ignore_index)
    rare, paste, of_four = (float(given.get(key, 0)) for key in ("rare", "paste", "mosaic"))
    if not (paste or of_four):
        return make(crop, rare=rare)
    return Mix(Windows(make, rare), crop, pairs, copy_paste=paste, mosaic=of_four)


class Training:
    """AdamW with the poly schedule, and the exponential average of the weights."""

    def __init__(self, model: Any, given: dict[str, str], protocol: Protocol, ignored: int) -> None:
        self.model, self.protocol, self.ignored = model, protocol, ignored
        self.loss = given.get("loss", "cross_entropy")
        self.class_weights: Tensor | None = None
        body, head = set(model.backbone.parameters()), float(given.get("head_lr", HEAD_LR))
        rates = {
            k: float(given.get("rate", 1)) if k.endswith("gamma") else 1.0 for k, _ in named(model)
        }
        groups = [
            {"params": [p], "lr": (LR if p in body else head) * rates[name]}
            for name, p in named(model)
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=DECAY, fused=True)
        self.averaged = AveragedModel(
            model, multi_avg_fn=get_ema_multi_avg_fn(protocol.decay), use_buffers=True
        )
        self.gammas: list[dict[str, float]] = []

    def run(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        """All steps; the gammas are kept every 100."""
        self.model.train()
        for step in range(self.protocol.steps):
            factor = poly(step, self.protocol.steps, warmup=self.protocol.warmup)
            for group in self.optimizer.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
            loss = self.step(*next(batches))
            if step % 100 == 99:
                own = {k: round(float(v), 4) for k, v in named(self.model) if k.endswith("gamma")}
                self.gammas.append(own)
                print(step + 1, round(loss, 3), own, file=sys.stderr, flush=True)

    def step(self, images: Tensor, masks: Tensor) -> float:
        """One step; the loss."""
        inputs = self.model.normalize(images).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()):
            output = self.model(inputs)
        overlap = dice_loss if self.loss == "cross_entropy+dice" else None
        loss = segmentation_loss(
            output,
            masks,
            self.model.loss_weights,
            class_weights=self.class_weights,
            ignore_index=self.ignored,
            overlap=overlap,
        ).total
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.averaged.update_parameters(self.model)
        return float(loss.detach())


def named(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Its parameters with their names."""
    return list(model.named_parameters())


@torch.inference_mode()
def evaluate(model: Any, pairs: list[Pair], classes: Classes) -> list[float | None]:
    """IoU of each class from one confusion matrix over whole images; None where absent."""
    model.eval()
    count = len(classes)
    matrix = torch.zeros(count, count, dtype=torch.int64)
    for image, mask in pairs:
        logits = model(model.normalize(image[None])).logits  # (1, K, H, W)
        matrix += confusion_matrix(logits[0].argmax(0), mask.long(), count, classes.ignore_index)
    present = matrix.sum(1) > 0
    return [float(v) if p else None for v, p in zip(iou(matrix), present, strict=True)]


def tables(lines: list[dict[str, Any]]) -> str:
    """One table a protocol."""
    return "\n\n".join(
        table(name, [line for line in lines if line["protocol"] == name])
        for name in PROTOCOLS
        if any(line["protocol"] == name for line in lines)
    )


def table(protocol: str, lines: list[dict[str, Any]]) -> str:
    """Markdown: mIoU of each fold, mean and range over the seeds, and the mean over the drives."""
    folds = ["val", *DRIVES]
    of = PROTOCOLS[protocol]
    rows = [
        f"`{protocol}`: `{BACKBONE}`, {of.steps} steps of {of.batch} windows of {of.crop[0]} x "
        f"{of.crop[1]}, stride 16; mIoU in percent (lowest to highest of the seeds), that of the "
        "averaged weights behind a slash:",
        "",
        f"| network | {' | '.join(folds)} | mean of drives | CPU minutes |",
        "|---" * (len(folds) + 3) + "|",
    ]
    for run in sorted({line["run"] for line in lines}):
        of_run = [line for line in lines if line["run"] == run]
        cells = [cell([line for line in of_run if line["fold"] == fold]) for fold in folds]
        minutes = statistics.median(line["cpu_minutes"] for line in of_run)
        mean = mean_of_drives(of_run)
        rows.append(f"| {run} | {' | '.join(cells)} | {mean} | {minutes:.0f} |")
    return "\n".join(rows)


def cell(lines: list[dict[str, Any]]) -> str:
    """Mean and range of the mIoU over seeds, and the mean of the averaged weights."""
    if not lines:
        return "-"
    plain = [miou(line["iou"]) for line in lines]
    averaged = statistics.fmean(miou(line["iou_averaged"]) for line in lines)
    seeds = f" ({min(plain):.1f} to {max(plain):.1f})" if len(plain) > 1 else ""
    return f"{statistics.fmean(plain):.1f}{seeds} / {averaged:.1f}"


def mean_of_drives(lines: list[dict[str, Any]]) -> str:
    """The mean of the drives' means: each drive counts once, whatever the number of its seeds.

    >>> scores = {"0001TP": [0.2, 0.4], "0006R0": [0.6], "0016E5": [0.9]}
    >>> lines = [{"fold": k, "iou": [v], "iou_averaged": [v]} for k in scores for v in scores[k]]
    >>> mean_of_drives(lines), mean_of_drives(lines[:3])
    ('60.0 / 60.0', '-')
    """
    drives = [[line for line in lines if line["fold"] == drive] for drive in DRIVES]
    if not all(drives):
        return "-"
    means = (
        statistics.fmean(statistics.fmean(miou(line[key]) for line in drive) for drive in drives)
        for key in ("iou", "iou_averaged")
    )
    return " / ".join(f"{mean:.1f}" for mean in means)


def miou(values: list[float | None]) -> float:
    """Mean in percent over the classes that the fold has."""
    return 100 * statistics.fmean(value for value in values if value is not None)


if __name__ == "__main__":
    main()
