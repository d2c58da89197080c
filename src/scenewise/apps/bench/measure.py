"""Time and memory of alternatives, measured in turns within one run."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.autograd.profiler import profile

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else PyTorch's profiler logs to stderr
Run = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One alternative of one piece of work.

    Attributes:
        work: what is computed, with its sizes.
        variant: how; the first variant of a piece of work is the baseline of the others.
        seconds: median of the runs.
        megabytes: peak memory beyond what was allocated before.
        time_ratio, memory_ratio: over those of the baseline.
    """

    work: str
    variant: str
    seconds: float
    megabytes: float
    time_ratio: float
    memory_ratio: float


def compare(
    work: str,
    variants: Mapping[str, Run],
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Row]:
    """Run the variants in turns, ``repeats`` rounds by ``clock``, after one warm-up round.

    Turns, so that a machine that slows down slows all variants alike; medians, so that one outlier
    does not count.
    """
    times: dict[str, list[float]] = {variant: [] for variant in variants}
    for counts in [False] + [True] * repeats:  # the first round warms up
        for variant, run in variants.items():
            start = clock()
            run()
            if counts:
                times[variant].append(clock() - start)
    return _rows(work, times, {variant: peak_bytes(run) / 1e6 for variant, run in variants.items()})


def in_turns(work: str, variants: Mapping[str, Run], turns: int) -> list[Row]:
    """Like :func:`compare`, for runs of minutes: time and memory of the same runs, no warm-up."""
    times: dict[str, list[float]] = {variant: [] for variant in variants}
    peaks: dict[str, float] = {}
    for _ in range(turns):
        for variant, run in variants.items():
            start = time.perf_counter()
            peaks[variant] = peak_bytes(run) / 1e6
            times[variant].append(time.perf_counter() - start)
    return _rows(work, times, peaks)


def _rows(
    work: str, times: Mapping[str, Sequence[float]], megabytes: Mapping[str, float]
) -> list[Row]:
    """A row for each variant, compared with the first."""
    seconds = {variant: statistics.median(values) for variant, values in times.items()}
    first = next(iter(times))
    return [
        Row(
            work,
            variant,
            seconds[variant],
            megabytes[variant],
            seconds[variant] / seconds[first],
            megabytes[variant] / megabytes[first] if megabytes[first] else float("nan"),
        )
        for variant in times
    ]


def peak_bytes(run: Run) -> int:
    """Peak CPU memory of ``run`` beyond what was allocated before it.

    Counted from PyTorch's allocations, so exact and free of noise.

    >>> peak_bytes(lambda: torch.zeros(1000).sum()) >= 4000
    True
    """
    with profile(use_kineto=True, profile_memory=True) as profiled:
        run()
    assert profiled.kineto_results is not None
    events = [e for e in profiled.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()  # negative when memory is freed
        peak = max(peak, held)
    return peak


def products(operations: float, size: int = 2048) -> Run:
    """Square float32 matrix products of about ``operations``: the limit of a machine."""
    a, b, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)

    def run() -> object:
        for _ in range(max(1, round(operations / (2 * size**3)))):
            torch.mm(a, b, out=out)
        return out

    return run


def forward_and_backward(run: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]) -> Run:
    """``run`` on ``inputs``, then all gradients of the sum of its output."""
    with torch.no_grad():
        grad = torch.ones_like(run(*inputs))  # full memory, not the expanded 1 of sum()

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
