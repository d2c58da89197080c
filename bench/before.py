"""Benchmark of first-order attention against the version without forward mode.

Two processes, each with the source of one version, run the same work in turns. Other processes of
the machine matter less to seconds of CPU time, on one thread, than to elapsed time.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scenewise.apps.bench.measure import Row
from scenewise.errors import UserError

ROOT = Path(__file__).parents[1]
ADDED = "src/scenewise/attention/kernels/operators.py"  # with it came forward mode
WORK = {  # position: pixels; criss-cross: height, width; channels, repeats in one run
    "position, N = 64, D 64, C 512": ((64,), 512, 200),
    "position, N = 1024, D 64, C 512": ((1024,), 512, 3),
    "position, N = 4096, D 64, C 512": ((4096,), 512, 1),
    "criss-cross, 33 x 47, D 64, C 512": ((33, 47), 512, 3),
}
_WORKER = """
import json, sys, time, torch
from scenewise.apps.bench.measure import forward_and_backward, forward_only, peak_bytes
from scenewise.attention import criss_cross_attention, position_attention
torch.set_num_threads(1)
for line in sys.stdin:
    (size, channels, count), backward, memory = json.loads(line)
    torch.manual_seed(0)
    inputs = [torch.randn(1, c, *size) / 8 for c in (64, 64, channels)]
    if len(size) == 1:
        inputs = [x.transpose(1, 2) for x in inputs]
    function = position_attention if len(size) == 1 else criss_cross_attention
    run = (forward_and_backward if backward else forward_only)(function, inputs)
    run()
    start = time.process_time()
    for _ in range(0 if memory else count):
        run()
    print(peak_bytes(run) if memory else (time.process_time() - start) / count, flush=True)
"""


def rows(repeats: int = 5) -> list[Row]:
    """Forward, and forward + backward, of both versions."""
    with ExitStack() as stack:
        before = stack.enter_context(_source_before())
        workers = {
            "before": stack.enter_context(_worker(before)),
            "with forward mode": stack.enter_context(_worker(ROOT)),
        }
        return [
            row
            for work, task in WORK.items()
            for backward in (False, True)
            for row in _compare(work, (task, backward), workers, 4 * repeats + 1)
        ]


def _compare(
    work: str, task: tuple[Any, bool], workers: dict[str, Any], repeats: int
) -> Iterator[Row]:
    name = f"{work}, {'+ backward' if task[1] else 'forward'}"
    times: dict[str, list[float]] = {version: [] for version in workers}
    for _ in range(repeats):
        for version, worker in workers.items():
            times[version].append(_ask(worker, (*task, False)))
    seconds = {version: statistics.median(values) for version, values in times.items()}
    peaks = {version: _ask(worker, (*task, True)) / 1e6 for version, worker in workers.items()}
    first, least = seconds["before"], peaks["before"]
    for version in workers:
        t, peak = seconds[version], peaks[version]
        yield Row(name, version, t, peak, t / first, peak / least)


def _ask(worker: subprocess.Popen[str], task: tuple[Any, ...]) -> float:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(json.dumps(task) + "\n")
    worker.stdin.flush()
    return float(worker.stdout.readline())


@contextmanager
def _worker(source: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with the code in ``source``; it ends with its standard input."""
    environment = os.environ | {"PYTHONPATH": str(source / "src"), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", _WORKER]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@contextmanager
def _source_before() -> Iterator[Path]:
    """The source of the commit before ``ADDED``, in a temporary folder."""
    commit = _git("log", "--diff-filter=A", "--format=%H", "--", ADDED).split()
    if not commit:
        raise UserError("the history of this checkout does not reach the version before")
    with TemporaryDirectory() as folder:
        archive = Path(folder, "source.tar")
        _git("archive", "--output", str(archive), f"{commit[-1]}^", "src")
        subprocess.run(["tar", "-xf", archive, "-C", folder], check=True)
        yield Path(folder)


def _git(*arguments: str) -> str:
    try:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"git cannot read the version before ({error})") from error
