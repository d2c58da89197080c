"""The forms of position attention on a CUDA GPU, beside the GPU's own rate of matrix products."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from scenewise.apps.bench.attention import CHANNELS, INNER, dense, draw
from scenewise.apps.bench.measure import Run, forward_and_backward, forward_only
from scenewise.attention.kernels import autotune, tiled
from scenewise.errors import UserError

PIXELS = (9216, 16384, 32768)
DTYPES = (torch.bfloat16, torch.float32)
PRODUCT = 8192  # side of the matrices whose product is the GPU's rate
Meter = Callable[[Run, int], tuple[float, int]]  # seconds and bytes of a run


@dataclass(frozen=True)
class Row:
    """One form of one piece of work.

    Attributes:
        work: what is done, with its sizes and precision.
        way: how; of a form that cannot run here, also why.
        seconds: median of the runs; this and the others are None where the form cannot run.
        megabytes: most GPU memory held at once beyond what was there before.
        tflops: 10^12 operations a second. Counted are those that the formula needs, for all forms
            alike: work that a form does twice does not count.
        rate_share: over the measured rate of matrix products of this precision.
    """

    work: str
    way: str
    seconds: float | None
    megabytes: float | None
    tflops: float | None
    rate_share: float | None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form."""
        return asdict(self)


def rows(repeats: int = 5) -> list[Row]:
    """Forward, and forward + backward, at several numbers of pixels in two precisions.

    Raises:
        UserError: there is no CUDA GPU.
    """
    if not torch.cuda.is_available():
        raise UserError(
            "no CUDA GPU here; run `scenewise bench attention_cuda` on a machine with one"
        )
    return list(measured(torch.device("cuda"), meter, repeats))


def measured(device: torch.device, meter: Meter, repeats: int) -> Iterator[Row]:
    """The rows, with the time and memory that ``meter`` tells."""
    for dtype in DTYPES:
        square = torch.randn(PRODUCT, PRODUCT, device=device, dtype=dtype)
        rate = 2 * PRODUCT**3 / meter(lambda a=square: a @ a, repeats)[0]  # type: ignore[misc]
        for pixels in PIXELS:
            inputs = [x.to(device, dtype) for x in draw(pixels)]
            for step, products in (("forward", 1), ("+ backward", 3)):
                name = str(dtype).removeprefix("torch.")
                work = f"N = {pixels}, D {INNER}, C {CHANNELS}, {name}, {step}"
                operations = products * 2 * pixels**2 * (INNER + CHANNELS)
                for way, run in ways(inputs, backward=products > 1).items():
                    yield _row(work, way, run, meter, repeats, operations, rate)


def ways(inputs: list[Tensor], *, backward: bool) -> dict[str, Run]:
    """The dense formula, then the variants that ``attention.kernels.autotune`` tries."""
    whole = forward_and_backward if backward else forward_only
    found: dict[str, Run] = {"dense": lambda: whole(dense, inputs)()}
    forms = {
        "PyTorch's efficient kernel": (autotune.efficient, autotune.efficient_backward),
        "tiles": (tiled.attend, tiled.attend_backward),
    }
    if find_spec("triton"):
        from scenewise.attention.kernels import triton

        forms["triton"] = (triton.attend, triton.attend_backward)
    for name, (attend, attend_backward) in forms.items():
        found[name] = _form(attend, attend_backward if backward else None, inputs)
    return found


def _form(attend: autotune.Way, attend_backward: autotune.Way | None, inputs: list[Tensor]) -> Run:
    def run() -> object:
        out, log_sum = attend(*inputs, 1.0)
        if attend_backward is None:
            return out
        return attend_backward(torch.ones_like(out), *inputs, out, log_sum, 1.0)

    return run


def _row(
    work: str, way: str, run: Run, meter: Meter, repeats: int, operations: float, rate: float
) -> Row:
    try:
        seconds, peak = meter(run, repeats)
    except Exception as error:  # out of memory, no such kernel: a form's own failure is a result
        return Row(work, f"{way}: {type(error).__name__}", None, None, None, None)
    speed = operations / seconds
    return Row(work, way, seconds, peak / 1e6, speed / 1e12, speed / rate)


def meter(run: Run, repeats: int) -> tuple[float, int]:
    """Median seconds by CUDA events after two runs that do not count; most bytes beyond before."""
    run()
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
