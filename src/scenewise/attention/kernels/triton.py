"""Position attention as Triton kernels for CUDA GPUs: one pass over the keys, linear memory.

After Dao et al., "FlashAttention", NeurIPS 2022, for values with more channels than the keys: 512
and 64 in DANet. A program computes some rows of the output and a chunk of its channels; each chunk
recomputes the energies, which is a third more arithmetic for 64 and 512 channels, and lets any
number of channels fit. The backward pass has one kernel each for the gradients of query, key and
value, so no two programs add to the same memory: results are the same in every run.

Shapes: queries (ROWS, PADDED), keys (KEYS, PADDED), values (KEYS, CHUNK), energies (ROWS, KEYS);
NQ and NK are the numbers of queries and keys, D and C the channels of keys and values.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from scenewise.attention.kernels.precision import upcast
from scenewise.attention.kernels.tiled import BackwardInputs

_ROWS, _KEYS, _CHUNK = 64, 64, 128  # of one program: query rows, keys at a time, value channels


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Output (B, Nq, C) of the dtype of ``value``, and row log-sum-exp (B, Nq) in float32."""
    q, k, v = query.contiguous(), key.contiguous(), value.contiguous()
    batch, queries = q.shape[:2]
    out = torch.empty(batch, queries, v.shape[2], dtype=v.dtype, device=v.device)
    log_sum = torch.empty(batch, queries, dtype=torch.float32, device=v.device)
    grid = (_blocks(queries, _ROWS), _blocks(v.shape[2], _CHUNK), batch)
    _forward[grid](q, k, v, out, log_sum, scale, queries, k.shape[1], **_sizes(q, v))
    return out, log_sum


def attend_backward(inputs: BackwardInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value."""
    g, q, k, v = (x.contiguous() for x in inputs[:4])
    log_sum, scale = inputs.log_sum, inputs.scale
    row_sum = (upcast(g) * upcast(inputs.out)).sum(-1)  # (B, Nq)
    d_q, d_k, d_v = (torch.empty_like(x) for x in (q, k, v))
    batch, queries, keys = q.shape[0], q.shape[1], k.shape[1]
    shared = (g, q, k, v, log_sum, row_sum, scale, queries, keys)
    sizes = _sizes(q, v)
    _backward_query[(_blocks(queries, _ROWS), batch)](d_q, *shared, **sizes)
    _backward_key[(_blocks(keys, _KEYS), batch)](d_k, *shared, **sizes)
    grid = (_blocks(keys, _KEYS), _blocks(v.shape[2], _CHUNK), batch)
    _backward_value[grid](d_v, g, q, k, log_sum, scale, queries, keys, **sizes)
    return d_q, d_k, d_v


def _blocks(length: int, size: int) -> int:
    return (length + size - 1) // size


def _sizes(query: Tensor, value: Tensor) -> dict[str, int]:
    """The constants that the kernels are compiled for."""
    inner, channels = query.shape[2], value.shape[2]
    padded = max(16, 1 << (inner - 1).bit_length())  # tl.dot takes powers of two from 16
    tile = {"ROWS": _ROWS, "KEYS": _KEYS, "CHUNK": _CHUNK}
    return {"D": inner, "C": channels, "PADDED": padded, **tile, "num_warps": 8, "num_stages": 2}


@triton.jit
def _tile(base, rows, columns, height, width):  # type: ignore[no-untyped-def]
    """Load rows x columns of a contiguous (height, width) array; zeros outside."""
    offsets = rows.to(tl.int64)[:, None] * width + columns[None, :]
    inside = (rows < height)[:, None] & (columns < width)[None, :]
    return tl.load(base + offsets, mask=inside, other=0.0)


@triton.jit
def _put(base, tile, rows, columns, height, width):  # type: ignore[no-untyped-def]
    """Store what :func:`_tile` loads."""
    offsets = rows.to(tl.int64)[:, None] * width + columns[None, :]
    inside = (rows < height)[:, None] & (columns < width)[None, :]
    tl.store(base + offsets, tile.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _energies(q, k, keys, NK, scale):  # type: ignore[no-untyped-def]
    """scale q k^T, -inf beyond the keys."""
    energies = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    return tl.where((keys < NK)[None, :], energies, float("-inf"))


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    q, k, v, out, log_sum, scale, NQ, NK,
    D: tl.constexpr, C: tl.constexpr, PADDED: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    batch, inner = tl.program_id(2).to(tl.int64), tl.arange(0, PADDED)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channels = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    queries = _tile(q + batch * NQ * D, rows, inner, NQ, D)
    peak = tl.full([ROWS], float("-inf"), tl.float32)  # largest energy so far, of each row
    total = tl.zeros([ROWS], tl.float32)  # sum of exp(energy - peak)
    acc = tl.zeros([ROWS, CHUNK], tl.float32)
    for start in range(0, NK, KEYS):
        keys = start + tl.arange(0, KEYS)
        k_tile = _tile(k + batch * NK * D, keys, inner, NK, D)
        energies = _energies(queries, k_tile, keys, NK, scale)
        higher = tl.maximum(peak, tl.max(energies, 1))
        weights, factor = tl.exp(energies - higher[:, None]), tl.exp(peak - higher)
        total = total * factor + tl.sum(weights, 1)
        v_tile = _tile(v + batch * NK * C, keys, channels, NK, C)
        gathered = tl.dot(weights.to(v_tile.dtype), v_tile, input_precision="ieee")
        acc = acc * factor[:, None] + gathered
        peak = higher
    _put(out + batch * NQ * C, acc / total[:, None], rows, channels, NQ, C)
    if tl.program_id(1) == 0:  # the sums are the same for every chunk of channels
        tl.store(log_sum + batch * NQ + rows, peak + tl.log(total), mask=rows < NQ)


@triton.jit
def _d_energies(  # type: ignore[no-untyped-def]
    g, v, weights, row_sum, rows, keys, NQ, NK,
    C: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Gradient of the energies of a tile: weights * (g v^T - row_sum)."""
    acc = tl.zeros([ROWS, KEYS], tl.float32)
    for start in range(0, C, CHUNK):
        channels = start + tl.arange(0, CHUNK)
        g_tile, v_tile = _tile(g, rows, channels, NQ, C), _tile(v, keys, channels, NK, C)
        acc += tl.dot(g_tile, tl.trans(v_tile), input_precision="ieee")
    return weights * (acc - row_sum[:, None])


@triton.jit
def _backward_query(  # type: ignore[no-untyped-def]
    d_q, g, q, k, v, log_sum, row_sum, scale, NQ, NK,
    D: tl.constexpr, C: tl.constexpr, PADDED: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    batch, inner = tl.program_id(1).to(tl.int64), tl.arange(0, PADDED)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    queries = _tile(q + batch * NQ * D, rows, inner, NQ, D)
    sums = tl.load(log_sum + batch * NQ + rows, mask=rows < NQ, other=0.0)
    means = tl.load(row_sum + batch * NQ + rows, mask=rows < NQ, other=0.0)
    acc = tl.zeros([ROWS, PADDED], tl.float32)
    for start in range(0, NK, KEYS):
        keys = start + tl.arange(0, KEYS)
        k_tile = _tile(k + batch * NK * D, keys, inner, NK, D)
        weights = tl.exp(_energies(queries, k_tile, keys, NK, scale) - sums[:, None])  # recomputed
        d_e = _d_energies(
            g + batch * NQ * C, v + batch * NK * C, weights, means, rows, keys, NQ, NK,
            C, ROWS, KEYS, CHUNK,
        )  # fmt: skip
        acc += tl.dot(d_e.to(k_tile.dtype), k_tile, input_precision="ieee")
    _put(d_q + batch * NQ * D, acc * scale, rows, inner, NQ, D)


@triton.jit
def _backward_key(  # type: ignore[no-untyped-def]
    d_k, g, q, k, v, log_sum, row_sum, scale, NQ, NK,
    D: tl.constexpr, C: tl.constexpr, PADDED: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    batch, inner = tl.program_id(1).to(tl.int64), tl.arange(0, PADDED)
    keys = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    k_tile = _tile(k + batch * NK * D, keys, inner, NK, D)
    acc = tl.zeros([KEYS, PADDED], tl.float32)
    for start in range(0, NQ, ROWS):
        rows = start + tl.arange(0, ROWS)
        queries = _tile(q + batch * NQ * D, rows, inner, NQ, D)
        sums = tl.load(log_sum + batch * NQ + rows, mask=rows < NQ, other=float("inf"))  # weight 0
        means = tl.load(row_sum + batch * NQ + rows, mask=rows < NQ, other=0.0)
        weights = tl.exp(_energies(queries, k_tile, keys, NK, scale) - sums[:, None])  # recomputed
        d_e = _d_energies(
            g + batch * NQ * C, v + batch * NK * C, weights, means, rows, keys, NQ, NK,
            C, ROWS, KEYS, CHUNK,
        )  # fmt: skip
        acc += tl.dot(tl.trans(d_e.to(queries.dtype)), queries, input_precision="ieee")
    _put(d_k + batch * NK * D, acc * scale, keys, inner, NK, D)


@triton.jit
def _backward_value(  # type: ignore[no-untyped-def]
    d_v, g, q, k, log_sum, scale, NQ, NK,
    D: tl.constexpr, C: tl.constexpr, PADDED: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    batch, inner = tl.program_id(2).to(tl.int64), tl.arange(0, PADDED)
    keys = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    channels = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    k_tile = _tile(k + batch * NK * D, keys, inner, NK, D)
    acc = tl.zeros([KEYS, CHUNK], tl.float32)
    for start in range(0, NQ, ROWS):
        rows = start + tl.arange(0, ROWS)
        queries = _tile(q + batch * NQ * D, rows, inner, NQ, D)
        sums = tl.load(log_sum + batch * NQ + rows, mask=rows < NQ, other=float("inf"))  # weight 0
        weights = tl.exp(_energies(queries, k_tile, keys, NK, scale) - sums[:, None])
        g_tile = _tile(g + batch * NQ * C, rows, channels, NQ, C)
        acc += tl.dot(tl.trans(weights.to(g_tile.dtype)), g_tile, input_precision="ieee")
    _put(d_v + batch * NK * C, acc, keys, channels, NK, C)
