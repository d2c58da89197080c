"""The forecast of a training against what was measured, each setting in a process of its own.

``python -m bench forecast`` runs all; ``python -m bench.forecast NUMBER`` prints one as JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from lightning.pytorch import Callback

from scenewise.data.module import SegmentationData
from scenewise.training.fit import quiet
from scenewise.training.forecast import Forecaster, plan_of
from scenewise.training.length import batches_per_epoch
from scenewise.training.task import SegmentationTask
from scenewise.training.trainer import build_trainer

# network, backbone, stride, size of the images, crop, batch, workers, steps, validation images
SETTINGS = (
    ("fcn", "tiny", 8, (64, 192), (64, 192), 8, 0, 120, 8),
    ("danet", "tiny", 8, (64, 192), (64, 192), 8, 0, 60, 8),
    ("danet", "tiny", 8, (256, 384), (128, 128), 4, 0, 30, 4),
    ("fcn", "tiny", 8, (512, 768), (64, 64), 2, 0, 20, 8),
    ("fcn", "resnet18", 16, (128, 256), (128, 256), 4, 0, 20, 4),
    ("danet", "resnet18", 8, (128, 256), (128, 256), 4, 0, 12, 4),
    ("danet", "resnet18", 8, (256, 512), (128, 128), 2, 2, 16, 4),
    ("psanet", "tiny", 8, (64, 192), (64, 128), 4, 0, 40, 8),
    ("ccnet", "resnet18", 16, (192, 320), (160, 160), 2, 0, 16, 4),
    ("danet_plus", "tf_efficientnet_lite0", 16, (176, 240), (176, 240), 4, 0, 16, 4),
    ("deeplabv3plus", "tf_efficientnet_lite0", 16, (176, 240), (128, 128), 2, 2, 20, 8),
    ("danet", "resnet50", 16, (256, 256), (128, 128), 2, 0, 8, 4),
)


@dataclass(frozen=True)
class Row:
    """Time and memory as forecast before the first step and as measured, and their ratios."""

    setting: str
    forecast_seconds: float
    measured_seconds: float
    time_factor: float
    forecast_gib: float
    measured_gib: float
    memory_factor: float


def rows(repeats: int) -> list[Row]:
    """All settings, one process each; the forecast and the training see the same machine."""
    return [_in_process(number) for number in range(len(SETTINGS))]


def _in_process(number: int) -> Row:
    command = [sys.executable, "-m", "bench.forecast", str(number)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    return Row(**json.loads(done.stdout.splitlines()[-1]))


class _Clock(Callback):
    """Seconds of the training and its validations."""

    seconds = 0.0

    def on_train_start(self, *_: object) -> None:
        self.seconds = -time.perf_counter()

    def on_train_end(self, *_: object) -> None:
        self.seconds += time.perf_counter()


class _Memory(threading.Thread):
    """The most memory of this process and its workers; what they share counts once."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.ended = 0, threading.Event()
        self.start()

    def run(self) -> None:
        own = os.getpid()
        while not self.ended.wait(0.1):
            workers = Path(f"/proc/{own}/task/{own}/children").read_text().split()
            self.peak = max(self.peak, sum(map(_proportional, [str(own), *workers])))

    def stop(self) -> int:
        """Its bytes."""
        self.ended.set()
        self.join()
        return self.peak


def _proportional(process: str) -> int:
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0  # it has ended
    return 1024 * int(text.partition("\nPss:")[2].split()[0])


def measure(number: int) -> Row:
    """One setting."""
    network, backbone, stride, size, crop, batch, workers, steps, images = SETTINGS[number]
    data = SegmentationData(
        "scenes",
        scenes_train=4 * batch,
        scenes_val=images,
        scenes_size=size,
        crop_size=crop,
        batch_size=batch,
        num_workers=workers,
    )
    task = SegmentationTask(
        data.classes, network=network, backbone=backbone, output_stride=stride, pretrained=False
    )
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder, quiet():
        options = {"default_root_dir": Path(folder), "accelerator": "cpu", "max_steps": steps}
        trainer = build_trainer(task, data, callbacks=[clock], enable_progress_bar=False, **options)
        plan = plan_of(trainer, data, batches_per_epoch(data, 1), mixed=False)
        forecast = Forecaster(task.model, data, torch.device("cpu"), plan).forecast()
        memory = _Memory()
        trainer.fit(task, datamodule=data)
    measured = memory.stop()
    predicted = forecast.training + forecast.validation
    return Row(
        f"{network}, {backbone}, stride {stride}, images {size[0]} x {size[1]}, crop {crop[0]} x "
        f"{crop[1]}, batch {batch}, {workers} workers, {steps} steps",
        predicted,
        clock.seconds,
        predicted / clock.seconds,
        forecast.bytes / 2**30,
        measured / 2**30,
        forecast.bytes / measured,
    )


if __name__ == "__main__":
    print(json.dumps(asdict(measure(int(sys.argv[1])))))
