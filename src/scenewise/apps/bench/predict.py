"""Benchmark of ``scenewise predict``: from image files to label files, and its start-up.

The images are 512 x 1024 JPEG files, the network is a DANet on ResNet-18 at stride 16. Start-up is
the processor time of a whole process that labels one small image, to which other load adds little.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
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

_SIZE, _IMAGES, _CLASSES = (512, 1024), 4, 19
_SMALL = (64, 96)  # of the image that measures the start-up


@dataclass(frozen=True)
class Speed:
    """A variant of a piece of work: its time, and the ratio to that of the first variant."""

    work: str
    variant: str
    images_per_second: float | None
    seconds: float
    time_ratio: float


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
    """The network alone, one image after the other from file to file, and overlapping."""
    files = [_image(folder / "images" / f"{index}.jpg", _SIZE, index) for index in range(_IMAGES)]
    args = _arguments(folder / "images", folder / "model", folder / "out")
    model, common = load(args)
    predictor = AutoWindowPredictor(predictor_of(model, args))
    results = ImageResults(args, predictor, args.out)
    decoded = [read_image(file) for file in files]

    def plain() -> None:
        for file in files:
            image = read_image(file)
            prediction, record = results.predict(image, common)
            results.write(image, prediction, file.stem, record)

    def overlapping() -> None:
        labeller = Labeller(args, results, common, 0.0, Progress(disable=True))
        items = [(file, file.stem) for file in files]
        assert sum(1 for _ in labeller.label(items)) == labeller.outcome.done == _IMAGES

    variants: dict[str, Callable[[], object]] = {
        "network alone": lambda: [predictor(image) for image in decoded],
        "one after the other": plain,
        "scenewise predict": overlapping,
    }
    work = f"DANet R18, {_SIZE[0]} x {_SIZE[1]}, JPEG to labels and overlay"
    return _compare(work, variants, repeats, _IMAGES)


def _start_up(folder: Path, repeats: int) -> list[Speed]:
    """Processor seconds of processes: what PyTorch takes alone, and predictions of one image."""
    image = _image(folder / "small.png", _SMALL, 0)
    work = f"start-up: a process that labels {_SMALL[0]} x {_SMALL[1]} pixels, processor seconds"
    commands = {"import torch": ["-c", "import torch"]}
    for variant, model in {"danet, tiny": "tiny", "danet, resnet18": "model"}.items():
        words = [str(image), "--model", str(folder / model), "--out", str(folder / "small")]
        commands[f"predict, {variant}"] = ["-m", "scenewise", "predict", *words, "--again"]
    times: dict[str, list[float]] = {variant: [] for variant in commands}
    for _ in range(repeats):
        for variant, words in commands.items():
            times[variant].append(_processor_seconds(words))
    return _table(work, times, None)


def _compare(
    work: str, variants: dict[str, Callable[[], object]], repeats: int, images: int
) -> list[Speed]:
    """Each variant in turns, ``repeats`` rounds after a warm-up round."""
    times: dict[str, list[float]] = {variant: [] for variant in variants}
    for counts in [False] + [True] * repeats:
        for variant, run in variants.items():
            start = time.perf_counter()
            run()
            if counts:
                times[variant].append(time.perf_counter() - start)
    return _table(work, times, images)


def _table(work: str, times: dict[str, list[float]], images: int | None) -> list[Speed]:
    seconds = {variant: statistics.median(values) for variant, values in times.items()}
    first = next(iter(seconds.values()))
    return [
        Speed(work, variant, images / s if images else None, s, s / first)
        for variant, s in seconds.items()
    ]


def _processor_seconds(words: list[str]) -> float:
    """User and system time of a Python process with one thread."""
    before = os.times()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *words], capture_output=True, check=True, env=environment)
    after = os.times()
    user = after.children_user - before.children_user
    return user + after.children_system - before.children_system


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
