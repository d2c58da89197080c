"""Start-up of the command: user seconds of a whole process, which other load changes little."""

import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from scenewise.models.build import create_model

_IMAGE = (256, 384)  # height, width


@dataclass(frozen=True)
class Row:
    """One command, the median of its user seconds, and the limit it is meant to keep."""

    command: str
    user_seconds: float
    goal: float


def rows(repeats: int) -> list[Row]:
    """Help, wrong options, the table of networks, and the prediction of one image."""
    goals = {"--version": 0.5, "--help": 0.5, "predict --windw 3": 0.5, "fit DIR --lr 0.1": 0.5}
    goals |= {"predict --help": 1.0, "fit --help": 1.0, "models": 3.0}
    measured = [Row(words, _seconds(words.split(), repeats), goal) for words, goal in goals.items()]
    with tempfile.TemporaryDirectory() as folder:
        seconds = _seconds(_prediction(Path(folder)), repeats)
    size = f"{_IMAGE[0]} x {_IMAGE[1]}"
    return [*measured, Row(f"predict, {size}, danet, resnet50", seconds, float("nan"))]


def _prediction(folder: Path) -> list[str]:
    """Words that label one image of noise with a DANet of random weights."""
    model = create_model("danet", num_classes=19, backbone="resnet50", pretrained=False)
    model.save_pretrained(folder / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (*_IMAGE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    places = {"--model": folder / "model", "--out": folder / "out"}
    options = [word for name, place in places.items() for word in (name, str(place))]
    return ["predict", str(folder / "image.png"), *options, "--again"]


def _seconds(words: list[str], repeats: int) -> float:
    """The median user time of ``scenewise WORDS`` with one thread."""
    seconds = []
    for _ in range(repeats):
        before = os.times().children_user
        command = [sys.executable, "-m", "scenewise", *words]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, capture_output=True, check=False, env=environment)
        seconds.append(os.times().children_user - before)
    return statistics.median(seconds)
