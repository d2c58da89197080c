"""``scenewise predict`` in one process and in several at once, each with one thread.

    python -m bench.sharded                      # 1 and 2 processes; needs an idle machine
    python -m bench.sharded --processes 4 --images 64

Every process has the same number of images. The time before the first image is measured by a run
that finds everything finished, and subtracted. Prints JSON; ``throughput`` is that
of one process among several over that of one alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bench.page_speed import save_scene
from scenewise import create_model


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--images", type=int, default=24, help="of each process")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 512), metavar=("H", "W"))
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        model = create_model("danet", num_classes=19, backbone=args.backbone, pretrained=False)
        model.save_pretrained(folder / "danet")
        for number in range(args.processes * args.images):
            save_scene(folder / "images" / f"{number:05}.png", (args.size[0], args.size[1]))
        rates = measure(folder, args.processes, args.images, args.repeats)
    about = {"size": list(args.size), "backbone": args.backbone, "images": args.images}
    print(json.dumps({**about, **rates}, indent=2))


def measure(folder: Path, processes: int, images: int, repeats: int) -> dict[str, Any]:
    """Images a second of one process, alone and among others; medians of alternating runs."""
    rates: dict[int, list[float]] = {1: [], processes: []}
    for _ in range(repeats):
        for size, measured in rates.items():
            work = seconds(folder, processes, size, again=True)
            measured.append(images / (work - seconds(folder, processes, size, again=False)))
    alone, among = (statistics.median(measured) for measured in rates.values())
    return {
        "processes": processes,
        "images_per_second_alone": round(alone, 2),
        "images_per_second_among": round(among, 2),
        "throughput": round(among / alone, 3),
    }


def seconds(folder: Path, shares: int, size: int, *, again: bool) -> float:
    """Seconds of the first ``size`` of ``shares`` shares of the images, at once."""
    words = ["predict", str(folder / "images"), "--model", str(folder / "danet")]
    words += ["--out", str(folder / "out"), "--device", "cpu", *(["--again"] if again else [])]
    threads = {"OMP_NUM_THREADS": "1", "WORLD_SIZE": str(shares)}
    start = time.perf_counter()
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "scenewise", *words],
            env={**os.environ, **threads, "RANK": str(rank)},
            stderr=subprocess.DEVNULL,
        )
        for rank in range(size)
    ]
    if any(process.wait() for process in running):
        raise RuntimeError("a process failed; run the command by hand to see why")
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
