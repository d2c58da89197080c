"""Benchmark of position attention on a CUDA GPU, against the GPU's rate of matrix products."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from scenewise.apps.bench.attention import CHANNELS, INNER, dense, draw
from scenewise.apps.bench.measure import Run, forward_and_backward, forward_only
from scenewise.attention.kernels import autotune
from scenewise.attention.kernels.tiled import BackwardInputs
from scenewise.errors import UserError

_PIXELS = (9216, 16384, 32768)
_DTYPES = (torch.bfloat16, torch.float32)
_PRODUCT = 8192  # side of the matrices whose product is the GPU's rate
_Meter = Callable[[Run, int], tuple[float, int]]  # run and repeats to seconds and bytes


@dataclass(frozen=True)
class Row:
    """One implementation of one piece of work.

    Attributes:
        work: what is computed, with its sizes and precision.
        variant: how; with the name of the error if it cannot run here.
        seconds: median of the runs; None, as what follows, for a variant that cannot run.
        megabytes: peak GPU memory beyond what was allocated before.
        tflops: 10^12 operations a second. Only those that the formula needs are counted, for all
            variants alike: recomputed work does not count.
        rate_share: over the measured rate of matrix products of this precision.
    """

    work: str
    variant: str
    seconds: float | None
    megabytes: float | None
    tflops: float | None
    rate_share: float | None


def rows(repeats: int = 5) -> list[Row]:
    """Forward, and forward + backward, at several numbers of pixels in two precisions.

    Raises:
        UserError: no CUDA GPU is available.
    """
    if not torch.cuda.is_available():
        raise UserError(
            "no CUDA GPU found; run `scenewise bench attention_cuda` on a machine with one"
        )
    return list(_measure(torch.device("cuda"), _cuda_meter, repeats))


def _measure(device: torch.device, meter: _Meter, repeats: int) -> Iterator[Row]:
    """The rows, with the time and memory that ``meter`` returns."""
    for dtype in _DTYPES:
        square = torch.randn(_PRODUCT, _PRODUCT, device=device, dtype=dtype)
        rate = 2 * _PRODUCT**3 / meter(lambda a=square: a @ a, repeats)[0]  # type: ignore[misc]
        for pixels in _PIXELS:
            inputs = [x.to(device, dtype) for x in draw(pixels)]
            for step, products in (("forward", 1), ("+ backward", 3)):
                name = str(dtype).removeprefix("torch.")
                work = f"N = {pixels}, D {INNER}, C {CHANNELS}, {name}, {step}"
                operations = products * 2 * pixels**2 * (INNER + CHANNELS)
                for variant, run in _variants(inputs, backward=products > 1).items():
                    yield _row(work, variant, run, meter, repeats, operations, rate)


def _variants(inputs: list[Tensor], *, backward: bool) -> dict[str, Run]:
    """The dense formula, then the candidates of ``attention.kernels.autotune``."""
    dense_run = forward_and_backward if backward else forward_only
    runs: dict[str, Run] = {"dense": lambda: dense_run(dense, inputs)()}
    for name, (attend, attend_backward) in autotune.implementations().items():
        runs[name] = _kernel_run(attend, attend_backward if backward else None, inputs)
    return runs


def _kernel_run(
    attend: autotune.Candidate, attend_backward: autotune.Candidate | None, inputs: list[Tensor]
) -> Run:
    def run() -> object:
        out, log_sum = attend(*inputs, 1.0)
        if attend_backward is None:
            return out
        query, key, value = inputs
        grad = torch.ones_like(out)
        return attend_backward(BackwardInputs(grad, query, key, value, out, log_sum, 1.0))

    return run


def _row(
    work: str, variant: str, run: Run, meter: _Meter, repeats: int, operations: float, rate: float
) -> Row:
    try:
        seconds, peak = meter(run, repeats)
    except Exception as error:  # out of memory, no such kernel: a result of the benchmark
        return Row(work, f"{variant}: {type(error).__name__}", None, None, None, None)
    speed = operations / seconds
    return Row(work, variant, seconds, peak / 1e6, speed / 1e12, speed / rate)


def _cuda_meter(run: Run, repeats: int) -> tuple[float, int]:
    """Median seconds by CUDA events after two warm-up runs; peak bytes beyond before."""
    run()  # compiles, which allocates memory of its own
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times), peak
