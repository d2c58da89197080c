"""Benchmark of ``scenewise predict``: from image files to label files, and its start-up.

The images are 512 x 1024 JPEG files, the network is a DANet on ResNet-18 at stride 16. Every round
starts with another variant, and ratios are those of the same round, in seconds and in processor
seconds. On a machine with other load take ``--threads 1`` and the processor seconds: each of the
network's parallel loops waits for its last thread, so with as many threads as cores one process
beside it multiplies the seconds of a variant, by a factor that changes from round to round.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import Progress
from torch import Tensor

from scenewise.apps.options.predict import add_arguments
from scenewise.apps.predict.image_results import ImageResults
from scenewise.apps.predict.labeller import Labeller
from scenewise.apps.predict.predictors import load, predictor_of
from scenewise.data.images import read_image
from scenewise.inference.auto_window import AutoWindowPredictor
from scenewise.models.build import create_model
from scenewise.models.segmenter import Segmenter

_SIZE, _IMAGES, _CLASSES = (512, 1024), 4, 19
_SMALL = (64, 96)  # of the image that measures the start-up


@dataclass(frozen=True)
class Speed:
    """A variant of a piece of work.

    Attributes:
        work: what is computed.
        variant: how; the first one is the baseline of the others.
        images_per_second: of the median; None for a start-up.
        seconds, processor_seconds: medians.
        time_ratio, processor_ratio: medians of the ratios to the baseline in the same round.
    """

    work: str
    variant: str
    images_per_second: float | None
    seconds: float
    processor_seconds: float
    time_ratio: float
    processor_ratio: float


_Times = tuple[float, float]  # seconds, processor seconds


def rows(repeats: int = 5) -> list[Speed]:
    """Images a second, with and without reading and writing; then the start-up."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = create_model(
            "danet", num_classes=_CLASSES, backbone="resnet18", pretrained=False, output_stride=16
        )
        model.save_pretrained(folder / "model")
        tiny = create_model("danet", num_classes=_CLASSES, backbone="tiny")
        tiny.save_pretrained(folder / "tiny")
        return [*_throughput(folder, repeats), *_start_up(folder, repeats)]


def _throughput(folder: Path, repeats: int) -> list[Speed]:
    """The network alone, the command, and two loops from file to file, without and with it."""
    (folder / "out").mkdir()
    files = [_image(folder / "images" / f"{index}.jpg", _SIZE, index) for index in range(_IMAGES)]
    args = _arguments(folder / "images", folder / "model", folder / "out")
    model, common = load(args)
    predictor = AutoWindowPredictor(predictor_of(model, args))
    results = ImageResults(args, predictor, args.out)
    decoded = [read_image(file) for file in files]

    def loop() -> None:
        for file in files:
            image = read_image(file)
            prediction, record = results.predict(image, common)
            results.write(image, prediction, file.stem, record)

    def command() -> None:
        labeller = Labeller(args, results, common, 0.0, Progress(disable=True))
        items = [(file, file.stem) for file in files]
        assert sum(1 for _ in labeller.label(items)) == labeller.outcome.done == _IMAGES

    variants: dict[str, Callable[[], object]] = {
        "network alone": lambda: [predictor(image) for image in decoded],
        "scenewise predict": command,
        "a loop over the files": loop,
        "plain PyTorch, from file to labels": lambda: _plain(model, files, args.out),
    }
    work = f"DANet R18, {_SIZE[0]} x {_SIZE[1]}, JPEG to labels and overlay"
    return _compare(work, variants, repeats, _IMAGES)


@torch.no_grad()
def _plain(model: Segmenter, files: list[Path], out: Path) -> None:
    """What users write without Scenewise: the network as trained, logits of full size, a PNG."""
    model.eval()
    for file in files:
        with Image.open(file) as opened:
            pixels = torch.from_numpy(np.array(opened.convert("RGB")))  # (H, W, 3)
        logits = model(model.normalize(pixels.permute(2, 0, 1)[None])).logits  # (1, K, H, W)
        labels = logits[0].argmax(0).byte().numpy()
        Image.fromarray(labels).save(out / f"{file.stem}.png")


def _start_up(folder: Path, repeats: int) -> list[Speed]:
    """Processes: what PyTorch takes alone, and predictions of one image."""
    image = _image(folder / "small.png", _SMALL, 0)
    work = f"start-up: a process that labels {_SMALL[0]} x {_SMALL[1]} pixels, one thread"
    commands = {"import torch": ["-c", "import torch"]}
    for variant, model in {"danet, tiny": "tiny", "danet, resnet18": "model"}.items():
        words = [str(image), "--model", str(folder / model), "--out", str(folder / "small")]
        commands[f"predict, {variant}"] = ["-m", "scenewise", "predict", *words, "--again"]
    variants = {name: partial(_process, words) for name, words in commands.items()}
    return _compare(work, variants, repeats, None)


def _compare(
    work: str, variants: Mapping[str, Callable[[], object]], repeats: int, images: int | None
) -> list[Speed]:
    """Each variant in turns, ``repeats`` rounds after a warm-up round, each in another order."""
    times: dict[str, list[_Times]] = {variant: [] for variant in variants}
    order = list(variants)
    for round_ in range(repeats + 1):
        for variant in order:
            start = _now()
            variants[variant]()
            if round_ > 0:
                seconds, processor_seconds = (b - a for a, b in zip(start, _now(), strict=True))
                times[variant].append((seconds, processor_seconds))
        order = [*order[1:], order[0]]
    baseline = times[next(iter(variants))]
    return [_speed(work, variant, values, baseline, images) for variant, values in times.items()]


def _speed(
    work: str, variant: str, times: list[_Times], baseline: list[_Times], images: int | None
) -> Speed:
    seconds, processor_seconds = (statistics.median(column) for column in zip(*times, strict=True))
    ratios = (  # to the baseline in the same round
        statistics.median(own[k] / other[k] for own, other in zip(times, baseline, strict=True))
        for k in range(2)
    )
    return Speed(
        work, variant, images / seconds if images else None, seconds, processor_seconds, *ratios
    )


def _now() -> _Times:
    """Seconds, and the processor seconds of this process and of those that it started."""
    return time.perf_counter(), sum(os.times()[:4])


def _process(words: list[str]) -> None:
    """Run Python with one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *words], capture_output=True, check=True, env=environment)


def _arguments(images: Path, model: Path, out: Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = [str(images), "--model", str(model), "--out", str(out), "--device", "cpu", "--again"]
    return parser.parse_args(words)


def _image(path: Path, size: tuple[int, int], seed: int) -> Path:
    """Write an image of smooth noise, which compresses about as photographs do."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, 3, size[0] // 8, size[1] // 8, generator=generator)
    smooth = torch.nn.functional.interpolate(noise, size, mode="bicubic")[0]  # (3, H, W)
    grain: Tensor = torch.randn(3, *size, generator=generator) * 4
    pixels = (110 + 45 * smooth + grain).clamp(0, 255).byte().permute(1, 2, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels.numpy())).save(path)
    return path
