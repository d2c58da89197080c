"""Load test of the page and of ``scenewise predict``: memory, latencies, stuck requests.

    python -m bench.load app                   # four visitors, ten minutes
    python -m bench.load predict --minutes 1

Prints JSON. The network is tiny, so that as many requests as possible are served. Memory is that of
the process, averaged over the second minute (or sixth of the time) and over the last one.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.attack import answers, resident
from bench.browser import running
from bench.visitor import Visitor
from scenewise import create_model
from scenewise.data import Scenes

Memory = list[tuple[float, int]]  # seconds since the start, bytes
SIZES = ((64, 192), (96, 128), (128, 256), (160, 160))
THINK = 0.3  # seconds between a visitor's clicks


def main() -> None:
    """Run one of the two load tests and print its result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("subject", choices=("app", "predict"))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--visitors", type=int, default=4)
    args = parser.parse_args()
    seconds = 60 * args.minutes
    with TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        create_model("danet", num_classes=5, backbone="tiny").save_pretrained(folder / "danet")
        if args.subject == "app":
            result = load_app(folder, seconds, args.visitors)
        else:
            result = load_predict(folder, seconds)
    print(json.dumps({"subject": args.subject, "seconds": seconds, **result}, indent=2))


def load_app(folder: Path, seconds: float, visitors: int) -> dict[str, Any]:
    """Visitors take samples and click, each in a thread."""
    times: dict[str, list[float]] = {"sample": [], "click": []}
    errors: list[str] = []
    with running(folder / "danet") as (address, process):
        before = answers(address)
        until = time.monotonic() + seconds
        threads = [
            threading.Thread(target=visit, args=(address, k, until, times, errors))
            for k in range(visitors)
        ]
        for thread in threads:
            thread.start()
        memory = watch(process.pid, until, lambda: True)
        for thread in threads:
            thread.join(120)
        return {
            "visitors": visitors,
            "errors": errors[:5],
            "stuck_visitors": sum(thread.is_alive() for thread in threads),
            "same_answers_after": answers(address) == before,
            "milliseconds": {name: percentiles(values) for name, values in times.items()},
            **growth(memory, seconds),
        }


def visit(
    address: str, number: int, until: float, times: dict[str, list[float]], errors: list[str]
) -> None:
    """One visitor after another: each takes a sample, clicks ten times, and leaves."""
    rng = np.random.default_rng(number)
    while time.monotonic() < until:
        try:
            visitor = Visitor(address)
            sample = int(rng.integers(6))
            times["sample"].append(timed(lambda v=visitor, n=sample: v.take(n)))  # type: ignore[misc]
            for _ in range(10):
                row, column = int(rng.integers(64)), int(rng.integers(192))
                act = lambda v=visitor, r=row, c=column: v.pick(r, c)  # noqa: E731
                times["click"].append(timed(act))
                time.sleep(THINK)
        except (OSError, RuntimeError) as error:
            errors.append(repr(error))


def load_predict(folder: Path, seconds: float) -> dict[str, Any]:
    """One process over a folder that it cannot finish in time."""
    images, out = folder / "images", folder / "out"
    images.mkdir()
    count = int(100 * seconds)
    for number in range(count):
        path, first = images / f"{number:06}.png", images / f"{number % 24:06}.png"
        if number < 24:
            image, _ = Scenes(1, size=SIZES[number % len(SIZES)], seed=number).read(0)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
        else:
            os.link(first, path)
    words = ["predict", str(images), "--model", str(folder / "danet"), "--out", str(out)]
    command = [sys.executable, "-m", "scenewise", *words, "--device", "cpu"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=one_thread)
    until = time.monotonic() + seconds
    memory = watch(process.pid, until, lambda: process.poll() is None)
    ended, end = process.poll(), time.time()
    process.kill()
    process.wait()
    written = sorted(file.stat().st_mtime for file in (out / "labels").glob("[!.]*.png"))
    if not written:
        raise RuntimeError("no image was finished in that time; give more --minutes")
    steps = [after - before for before, after in pairwise(written)]
    return {
        "ended_early": ended,
        "images": len(written),
        "seconds_since_the_last_image": round(end - written[-1], 1),
        "milliseconds": {"image": percentiles(steps)},
        **growth(memory, seconds),
    }


def watch(pid: int, until: float, is_running: Callable[[], bool]) -> Memory:
    """The memory of a process, every half second."""
    start, samples = time.monotonic(), []
    while time.monotonic() < until and is_running():
        samples.append((time.monotonic() - start, resident(pid)))
        time.sleep(0.5)
    return samples


def growth(memory: Memory, seconds: float) -> dict[str, Any]:
    """Memory early and late, and the growth in between."""
    span = min(60.0, seconds / 6)
    early = statistics.mean(size for at, size in memory if span <= at < 2 * span)
    late = statistics.mean(size for at, size in memory if at >= memory[-1][0] - span)
    starts = [span * k for k in range(int(memory[-1][0] / span))]
    parts = [[size for at, size in memory if s <= at < s + span] for s in starts]
    return {
        "memory_by_part_mb": [round(statistics.mean(part) / 1e6) for part in parts if part],
        "memory_early_mb": round(early / 1e6, 1),
        "memory_late_mb": round(late / 1e6, 1),
        "memory_most_mb": round(max(size for _, size in memory) / 1e6, 1),
        "growth_percent": round(100 * (late / early - 1), 2),
    }


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """Number of times, and some of their percentiles in milliseconds."""
    names = {"median": 50, "p95": 95, "p99": 99, "most": 100}
    values = {name: round(1000 * float(np.percentile(times, at)), 1) for name, at in names.items()}
    return {"count": len(times), **values}


def timed(act: Callable[[], object]) -> float:
    """Seconds that ``act`` takes."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
