"""Position attention in tiles of the map of all pairs, in PyTorch's operations, on any device."""

import math
from itertools import product

import torch
from torch import Tensor

from scenewise.attention.kernels.precision import FLOOR, no_autocast, upcast

# The map is walked in tiles of at most so many query rows and keys. One tile stays in the caches of
# a few cores, and is large enough for matrix products to run at full speed.
_TILE_ROWS, _TILE_KEYS = 1024, 2048
# Weights are exp(energy - shift) before they are divided by their sum. The shift follows the
# largest energy when that is _SLACK above it; e^10 fits float16.
_SLACK = 10.0


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Output (B, Nq, C) of the dtype of ``value``, and row log-sum-exp (B, Nq)."""
    samples, rows, keys = _tiling(query, key)
    with no_autocast(query):
        q, k = upcast(query) if scale == 1 else upcast(query) * scale, upcast(key).transpose(1, 2)
        v = value if len(rows) == 1 else value.contiguous()
        out = q.new_empty(*query.shape[:2], value.shape[2])
        log_sum = q.new_empty(query.shape[:2])
        scratch = _scratch(q, samples, rows, keys)
        for b, i in product(samples, rows):
            log_sum[b, i] = _attend_rows(q[b, i], k[b], v[b], keys, out[b, i], scratch)
    return out.to(value.dtype), log_sum


def attend_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    log_sum: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, tile by tile."""
    with no_autocast(query):
        q, k, v, d_out = upcast(query) * scale, upcast(key), upcast(value), upcast(grad)
        d_q, d_k, d_v = (torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
        samples, row_parts, key_parts = _tiling(query, key)
        scratch = [_scratch(q, samples, row_parts, key_parts) for _ in range(2)]
        whole = len(key_parts) == 1  # then a tile knows the sums of its rows
        row_sum = None if whole else (d_out * upcast(out)).sum(-1, keepdim=True)
        for b, keys, rows in product(samples, key_parts, row_parts):
            q_b, d_out_b, k_b, v_b = q[b, rows], d_out[b, rows], k[b, keys], v[b, keys]
            weights = torch.bmm(q_b, k_b.transpose(1, 2), out=_shaped(scratch[0], q_b, keys))
            weights.sub_(log_sum[b, rows, None]).clamp_(min=FLOOR).exp_()
            d_v[b, keys].baddbmm_(weights.transpose(1, 2), d_out_b)
            d_energy = torch.bmm(d_out_b, v_b.transpose(1, 2), out=_shaped(scratch[1], q_b, keys))
            if row_sum is None:
                d_energy.mul_(weights)
                d_energy.addcmul_(weights, d_energy.sum(-1, keepdim=True), value=-1)
            else:
                d_energy.sub_(row_sum[b, rows]).mul_(weights)
            d_q[b, rows].baddbmm_(d_energy, k_b)
            d_k[b, keys].baddbmm_(d_energy.transpose(1, 2), q_b)
    return (d_q * scale).to(query.dtype), d_k.to(key.dtype), d_v.to(value.dtype)


def parts(length: int, most: int) -> list[slice]:
    """Slices of nearly equal length, at most ``most``, that cover ``length``."""
    count = max(1, -(-length // most))
    step = max(1, -(-length // count))
    return [slice(i, min(i + step, length)) for i in range(0, length, step)]


def _tiling(query: Tensor, key: Tensor) -> tuple[list[slice], list[slice], list[slice]]:
    """Slices of samples, of query rows and of keys; few keys leave room for more of the others."""
    numbers, keys = _TILE_ROWS * _TILE_KEYS, parts(key.shape[1], _TILE_KEYS)
    rows = parts(query.shape[1], max(_TILE_ROWS, numbers // keys[0].stop))
    largest = (rows[0].stop if rows else 1) * keys[0].stop
    return parts(query.shape[0], max(1, numbers // largest)), rows, keys


def _attend_rows(
    q: Tensor, k: Tensor, v: Tensor, keys: list[slice], out: Tensor, scratch: Tensor
) -> Tensor:
    """Fill ``out`` (b, n, C) with the attention of the rows ``q``; their log-sum-exp (b, n).

    Weights are exp(energy - shift) with a shift near the largest energy so far, summed over tiles
    of keys and divided by their sum at the end.
    """
    shift = total = q.new_empty(0)
    for j in keys:
        weights = torch.bmm(q, k[..., j], out=_shaped(scratch, q, j))
        peak = weights.amax(-1, keepdim=True)
        if j.start == 0:
            shift, total = peak, torch.zeros_like(peak)
        elif (peak > shift + _SLACK).any():
            higher = peak.maximum(shift)
            factor = (shift - higher).exp_()
            shift, total = higher, total * factor
            out *= factor
        weights.sub_(shift).clamp_(min=FLOOR).exp_()
        total += weights.sum(-1, keepdim=True)
        _product(weights, v[:, j], out, first=j.start == 0)
    out /= total
    return (shift + total.log_()).squeeze(-1)


def _product(weights: Tensor, v: Tensor, out: Tensor, *, first: bool) -> None:
    """``out`` becomes, or unless ``first`` grows by, weights v; half precision sums in float32."""
    if v.dtype != out.dtype:
        part = torch.bmm(weights.to(v.dtype), v)
        out.copy_(part) if first else out.add_(part)
    elif first:
        torch.bmm(weights, v, out=out)
    else:
        out.baddbmm_(weights, v)


def _scratch(like: Tensor, *parts: list[slice]) -> Tensor:
    """Memory for one tile, taken once: fresh memory costs more than the work on it."""
    return like.new_empty(math.prod(part[0].stop for part in parts if part))


def _shaped(scratch: Tensor, rows: Tensor, keys: slice) -> Tensor:
    shape = *rows.shape[:2], keys.stop - keys.start
    return scratch[: math.prod(shape)].view(shape)
