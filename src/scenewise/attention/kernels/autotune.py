"""Which form of position attention a CUDA GPU computes: measured once for each kind of work.

The forms are the tiles over cuBLAS, PyTorch's memory-efficient kernel, and our Triton kernels. The
fastest depends on the GPU, the precision and the sizes, so the first call of a kind tries all. One
that fails, runs out of memory, or does not agree with the tiles is left out.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scenewise.attention.kernels import tiled

Way = Callable[..., tuple[Tensor, ...]]
Kind = tuple[Any, ...]

_chosen: dict[Kind, str] = {}


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Output (B, Nq, C) and row log-sum-exp (B, Nq), by the fastest form."""
    inputs = (query, key, value, scale)
    ways: dict[str, Way] = {"tiles": tiled.attend}
    if query.dtype == key.dtype == value.dtype != torch.float64:
        ways["efficient"] = efficient
        if find_spec("triton"):
            from scenewise.attention.kernels import triton

            ways["triton"] = triton.attend
    with torch.cuda.device(query.device):  # where Triton launches, and what is timed
        out, log_sum = ways[choose(ways, inputs, kind_of("forward", *inputs[:3]))](*inputs)
    return out, log_sum


def attend_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    log_sum: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, by the fastest form."""
    inputs = (grad, query, key, value, out, log_sum, scale)
    ways: dict[str, Way] = {"tiles": tiled.attend_backward}
    if query.dtype == key.dtype == value.dtype != torch.float64:
        if not torch.are_deterministic_algorithms_enabled():
            ways["efficient"] = efficient_backward
        if find_spec("triton"):
            from scenewise.attention.kernels import triton

            ways["triton"] = triton.attend_backward
    kind = kind_of("backward", query, key, value)
    with torch.cuda.device(query.device):
        d_query, d_key, d_value = ways[choose(ways, inputs, kind)](*inputs)
    return d_query, d_key, d_value


def kind_of(step: str, query: Tensor, key: Tensor, value: Tensor) -> Kind:
    """What the choice depends on; numbers of pixels and samples count by powers of two.

    >>> kind_of("forward", torch.zeros(1, 100, 4), torch.zeros(1, 80, 4), torch.zeros(1, 80, 8))[4:]
    (4, 8, 1, 7, 7)
    """
    sizes = (query.shape[0], query.shape[1], key.shape[1])
    deterministic = torch.are_deterministic_algorithms_enabled()
    powers = (size.bit_length() for size in sizes)
    return step, query.device, query.dtype, deterministic, query.shape[2], value.shape[2], *powers


def choose(
    ways: Mapping[str, Way],
    inputs: tuple[Any, ...],
    kind: Kind,
    seconds: Callable[[Way, tuple[Any, ...]], float] | None = None,
) -> str:
    """The fastest of ``ways`` that agrees with the first, remembered for this ``kind`` of work.

    While a CUDA graph is captured nothing can be measured: then the first, unless it is known. The
    same for results that are empty or not finite, which agree with nothing.
    """
    if kind in _chosen:
        return _chosen[kind]
    first = next(iter(ways))
    if len(ways) == 1 or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
        return first
    expected, found = ways[first](*inputs), {}
    if not all(x.numel() and bool(x.isfinite().all()) for x in expected):
        return first  # nothing to compare with; a later call will have
    for name, way in ways.items():
        try:
            if name == first or all(map(agree, way(*inputs), expected)):
                found[name] = (seconds or measured)(way, inputs)
        except Exception:  # out of memory, not on this GPU, an error of Triton's own
            continue
    _chosen[kind] = min(found, key=lambda name: found[name])
    return _chosen[kind]


def agree(ours: Tensor, expected: Tensor) -> bool:
    """Whether two results differ by rounding alone.

    >>> agree(torch.ones(2) + 1e-6, torch.ones(2)), agree(torch.ones(2) + 1e-2, torch.ones(2))
    (True, False)
    """
    bound = 2**-6 if expected.dtype in (torch.float16, torch.bfloat16) else 1e-4
    error = (ours.float() - expected.float()).abs().max()
    return bool(error <= bound * expected.float().abs().max().clamp(min=1e-30))


def measured(way: Way, inputs: tuple[Any, ...], repeats: int = 3) -> float:
    """Median seconds on the current CUDA device."""
    times: list[float] = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        way(*inputs)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def efficient(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """PyTorch's memory-efficient kernel, which takes values with more channels than the keys.

    It wants the channels of a pixel side by side; maps of networks are the other way round.
    """
    q, k, v = (x.contiguous().unsqueeze(1) for x in (query, key, value))
    out, log_sum, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, None, True, 0.0, False, scale=scale
    )
    return out.squeeze(1), log_sum[:, 0, : query.shape[1]].contiguous()


def efficient_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    log_sum: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The backward pass of :func:`efficient`; its sums are padded to multiples of 32 rows."""
    g, q, k, v, o = (x.contiguous().unsqueeze(1) for x in (grad, query, key, value, out))
    padded = F.pad(log_sum, (0, -log_sum.shape[1] % 32), value=float("inf")).unsqueeze(1)
    nothing = torch.zeros((), dtype=torch.int64, device=query.device)  # no dropout, no seed
    d_q, d_k, d_v, _ = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
        g, q, k, v, None, o, padded, nothing, nothing, 0.0, [True] * 3 + [False], False, scale=scale
    )
    return d_q.squeeze(1), d_k.squeeze(1), d_v.squeeze(1)
