"""Time and memory of alternatives, side by side in one run."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

# PyTorch's profiler writes each start and stop, and that there is no GPU, to stderr otherwise.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
Run = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One alternative of one piece of work.

    Attributes:
        work: what is done, with its sizes.
        way: how; the first way of a piece of work is what the others are compared with.
        seconds: median of the runs.
        megabytes: most memory held at once beyond what was there before.
        time_ratio, memory_ratio: over those of the first way.
    """

    work: str
    way: str
    seconds: float
    megabytes: float
    time_ratio: float
    memory_ratio: float

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form."""
        return asdict(self)


def compare(work: str, ways: Mapping[str, Run], repeats: int = 5) -> list[Row]:
    """Run the ways in turn, ``repeats`` rounds, after one round that does not count.

    Turns, so that a machine that slows down slows all ways alike; medians, so that one bad round
    does not count.
    """
    times: dict[str, list[float]] = {way: [] for way in ways}
    for counts in [False] + [True] * repeats:
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            if counts:
                times[way].append(time.perf_counter() - start)
    return _rows(work, times, {way: peak_bytes(run) / 1e6 for way, run in ways.items()})


def in_turns(work: str, ways: Mapping[str, Run], turns: int) -> list[Row]:
    """Like :func:`compare`, for what takes minutes: time and memory of the same runs."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    peaks: dict[str, float] = {}
    for _ in range(turns):
        for way, run in ways.items():
            start = time.perf_counter()
            peaks[way] = peak_bytes(run) / 1e6
            times[way].append(time.perf_counter() - start)
    return _rows(work, times, peaks)


def _rows(
    work: str, times: Mapping[str, Sequence[float]], megabytes: Mapping[str, float]
) -> list[Row]:
    """A row for each way, compared with the first."""
    seconds = {way: statistics.median(values) for way, values in times.items()}
    first = next(iter(times))
    return [
        Row(
            work,
            way,
            seconds[way],
            megabytes[way],
            seconds[way] / seconds[first],
            megabytes[way] / megabytes[first] if megabytes[first] else float("nan"),
        )
        for way in times
    ]


def peak_bytes(run: Run) -> int:
    """The most memory that ``run`` held at once on the CPU beyond what was there before it.

    Counted from PyTorch's own allocations, so exact and free of noise.

    >>> peak_bytes(lambda: torch.zeros(1000).sum()) >= 4000
    True
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    assert profiled.profiler is not None
    assert profiled.profiler.kineto_results is not None
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def product_rate(size: int = 2048, repeats: int = 9) -> float:
    """The machine's rate of float32 matrix products, in operations a second."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(times[2:])


def products(operations: float, size: int = 2048) -> Run:
    """Square float32 matrix products that are about so many operations: the limit of a machine."""
    a, b, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)

    def run() -> object:
        for _ in range(max(1, round(operations / (2 * size**3)))):
            torch.mm(a, b, out=out)
        return out

    return run


def forward_and_backward(run: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]) -> Run:
    """``run`` on ``inputs``, then all gradients of the sum of its output."""
    with torch.no_grad():
        grad = torch.ones_like(run(*inputs))  # a tensor of its own, as in a network

    def both() -> object:
        leaves = [x.detach().requires_grad_() for x in inputs]
        return torch.autograd.grad(run(*leaves), leaves, grad)

    return both


def forward_only(run: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]) -> Run:
    """``run`` on ``inputs`` without gradients."""

    def forward() -> object:
        with torch.no_grad():
            return run(*inputs)

    return forward
