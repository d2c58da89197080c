"""Autotuning on CUDA GPUs: which implementation of position attention is fastest here.

The candidates are the tiles over cuBLAS, PyTorch's memory-efficient kernel, and our Triton kernels.
The fastest depends on the GPU, the precision and the sizes, so the first call for each
:data:`TuneKey` measures them all and caches the result for the process. A candidate that raises,
runs out of memory or disagrees with the tiles is dropped.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scenewise.attention.kernels import tiled
from scenewise.attention.kernels.tiled import BackwardInputs

Candidate = Callable[..., tuple[Tensor, ...]]
TuneKey = tuple[Any, ...]

_chosen: dict[TuneKey, str] = {}


@cache
def implementations() -> dict[str, tuple[Candidate, Candidate]]:
    """Forward and backward pass of each installed implementation; the tiles come first."""
    table: dict[str, tuple[Candidate, Candidate]] = {
        "tiles": (tiled.attend, tiled.attend_backward),
        "efficient": (_efficient, _efficient_backward),
    }
    if find_spec("triton"):
        from scenewise.attention.kernels import triton

        table["triton"] = (triton.attend, triton.attend_backward)
    return table


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Output (B, Nq, C) and row log-sum-exp (B, Nq), by the fastest candidate."""
    out, log_sum = _run("forward", (query, key, value, scale), query, key, value)
    return out, log_sum


def attend_backward(inputs: BackwardInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, by the fastest candidate."""
    qkv = inputs.query, inputs.key, inputs.value
    d_query, d_key, d_value = _run("backward", (inputs,), *qkv)
    return d_query, d_key, d_value


def _run(
    step: str, inputs: tuple[Any, ...], query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, ...]:
    candidates = {name: pair[step == "backward"] for name, pair in implementations().items()}
    if not query.dtype == key.dtype == value.dtype != torch.float64:
        candidates = {"tiles": candidates["tiles"]}
    elif step == "backward" and torch.are_deterministic_algorithms_enabled():
        del candidates["efficient"]  # its backward pass adds up in no fixed order
    with torch.cuda.device(query.device):  # where Triton launches, and what is timed
        name = _choose(candidates, inputs, _tune_key(step, query, key, value))
        return candidates[name](*inputs)


def _tune_key(step: str, query: Tensor, key: Tensor, value: Tensor) -> TuneKey:
    """What the choice depends on; numbers of pixels and samples enter as powers of two.

    >>> _tune_key("forward", *(torch.zeros(1, *s) for s in ((100, 4), (80, 4), (80, 8))))[4:]
    (4, 8, 1, 7, 7)
    """
    sizes = (query.shape[0], query.shape[1], key.shape[1])  # B, Nq, Nk
    deterministic = torch.are_deterministic_algorithms_enabled()
    powers = (size.bit_length() for size in sizes)
    return step, query.device, query.dtype, deterministic, query.shape[2], value.shape[2], *powers


def _choose(
    candidates: Mapping[str, Candidate],
    inputs: tuple[Any, ...],
    key: TuneKey,
    timer: Callable[[Candidate, tuple[Any, ...]], float] | None = None,
) -> str:
    """The fastest of ``candidates`` that agrees with the first, cached under ``key``.

    Nothing can be measured during CUDA graph capture: then the first is returned, unless the choice
    is cached. The same for results that are empty or not finite, which agree with nothing.
    """
    if key in _chosen:
        return _chosen[key]
    first = next(iter(candidates))
    capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
    if len(candidates) == 1 or capturing:
        return first
    expected, seconds = candidates[first](*inputs), {}
    if not all(x.numel() and bool(x.isfinite().all()) for x in expected):
        return first  # nothing to compare with; a later call measures
    for name, candidate in candidates.items():
        try:
            if name == first or all(map(_agree, candidate(*inputs), expected)):
                seconds[name] = (timer or _median_seconds)(candidate, inputs)
        except Exception:  # out of memory, unsupported on this GPU, or an error raised by Triton
            continue
    _chosen[key] = min(seconds, key=lambda name: seconds[name])
    return _chosen[key]


def _agree(result: Tensor, expected: Tensor) -> bool:
    """Whether two results differ by rounding alone.

    >>> _agree(torch.ones(2) + 1e-6, torch.ones(2)), _agree(torch.ones(2) + 1e-2, torch.ones(2))
    (True, False)
    """
    bound = 2**-6 if expected.dtype in (torch.float16, torch.bfloat16) else 1e-4
    error = (result.float() - expected.float()).abs().max()
    return bool(error <= bound * expected.float().abs().max().clamp(min=1e-30))


def _median_seconds(candidate: Candidate, inputs: tuple[Any, ...], repeats: int = 3) -> float:
    """Median run time on the current CUDA device."""
    times: list[float] = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        candidate(*inputs)
        torch.cuda.synchronize()  # kernels run asynchronously
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _efficient(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """PyTorch's memory-efficient kernel, which takes values with more channels than the keys.

    It needs the channels of a pixel to be contiguous; feature maps of networks are transposed.
    """
    q, k, v = map(_aligned, (query, key, value))
    out, log_sum, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, None, True, 0.0, False, scale=scale
    )
    out = out[:, 0, :, : value.shape[2]]
    return out, log_sum[:, 0, : query.shape[1]].contiguous()  # rows are padded to 32


def _efficient_backward(inputs: BackwardInputs) -> tuple[Tensor, Tensor, Tensor]:
    """The backward pass of :func:`_efficient`; its sums are padded to multiples of 32 rows."""
    g, q, k, v, o = map(_aligned, inputs[:5])
    rows = inputs.log_sum.shape[1]
    padded = F.pad(inputs.log_sum, (0, -rows % 32), value=float("inf")).unsqueeze(1)
    unused = torch.zeros((), dtype=torch.int64, device=q.device)  # dropout's seed and offset
    gradients = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
        g, q, k, v, None, o, padded, unused, unused, 0.0, [True] * 3 + [False], False,
        scale=inputs.scale,
    )  # fmt: skip
    d_q, d_k, d_v = (
        d[:, 0, :, : x.shape[2]] for d, x in zip(gradients[:3], inputs[1:4], strict=True)
    )
    return d_q, d_k, d_v


def _aligned(x: Tensor) -> Tensor:
    """(B, N, C) to (B, 1 head, N, C or more), in rows that start at multiples of 16 bytes.

    PyTorch's operator for users pads channels so; the kernel itself reads at "misaligned address",
    an error of CUDA from which a process does not recover. Channels of zeros change no product.
    """
    x = F.pad(x, (0, -x.shape[2] % (16 // x.element_size()))).contiguous()
    return (x if x.data_ptr() % 16 == 0 else x.clone()).unsqueeze(1)
