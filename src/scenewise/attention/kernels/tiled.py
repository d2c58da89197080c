"""Position attention in tiles of the attention map, in PyTorch operations, on any device.

Shapes: query (B, Nq, D), key (B, Nk, D), value and output (B, Nk or Nq, C); the attention map would
be (B, Nq, Nk), of which one tile of (b, n, m) exists at a time.
"""

import math
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from scenewise.attention.kernels.precision import FLOOR, no_autocast, upcast

# Largest tile, in query rows and keys: it stays in the caches of a few cores, and is large enough
# for matrix products to run at full speed.
_TILE_ROWS, _TILE_KEYS = 1024, 2048
# Weights are exp(energy - shift) before normalisation. The shift moves up to the largest energy
# only when that exceeds it by _SLACK, which saves rescaling; e^10 still fits float16.
_SLACK = 10.0


class BackwardInputs(NamedTuple):
    """The arguments of a backward pass, the same for every implementation."""

    grad: Tensor  # of the output, (B, Nq, C)
    query: Tensor  # (B, Nq, D)
    key: Tensor  # (B, Nk, D)
    value: Tensor  # (B, Nk, C)
    out: Tensor  # (B, Nq, C)
    log_sum: Tensor  # log-sum-exp of each row of energies, (B, Nq)
    scale: float


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Output (B, Nq, C) of the dtype of ``value``, and row log-sum-exp (B, Nq)."""
    samples, rows, keys = _tiling(query, key)
    with no_autocast(query):
        q = upcast(query) if scale == 1 else upcast(query) * scale  # (B, Nq, D)
        k = upcast(key).transpose(1, 2)  # (B, D, Nk)
        v = value if len(rows) == 1 else value.contiguous()  # read once for each part of the rows
        out = q.new_empty(*query.shape[:2], value.shape[2])  # (B, Nq, C)
        log_sum = q.new_empty(query.shape[:2])
        scratch = _scratch(q, samples, rows, keys)
        for b, i in product(samples, rows):
            log_sum[b, i] = _attend_rows(q[b, i], k[b], v[b], keys, out[b, i], scratch)
    return out.to(value.dtype), log_sum


def attend_backward(inputs: BackwardInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, tile by tile."""
    grad, query, key, value, out, log_sum, scale = inputs
    with no_autocast(query):
        q, k, v, d_out = upcast(query) * scale, upcast(key), upcast(value), upcast(grad)
        d_q, d_k, d_v = (torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
        samples, row_parts, key_parts = _tiling(query, key)
        scratch = [_scratch(q, samples, row_parts, key_parts) for _ in range(2)]
        whole = len(key_parts) == 1  # then a tile holds the sums of its rows
        row_sum = None if whole else (d_out * upcast(out)).sum(-1, keepdim=True)  # (B, Nq, 1)
        for b, keys, rows in product(samples, key_parts, row_parts):
            q_b, d_out_b, k_b, v_b = q[b, rows], d_out[b, rows], k[b, keys], v[b, keys]
            weights = _recomputed(q_b, k_b, log_sum[b, rows], scratch[0])  # (b, n, m)
            d_v[b, keys].baddbmm_(weights.transpose(1, 2), d_out_b)
            d_energy = torch.bmm(d_out_b, v_b.transpose(1, 2), out=_shaped(scratch[1], q_b, keys))
            if row_sum is None:
                d_energy.mul_(weights)
                d_energy.addcmul_(weights, d_energy.sum(-1, keepdim=True), value=-1)
            else:
                d_energy.sub_(row_sum[b, rows]).mul_(weights)  # the softmax's derivative
            d_q[b, rows].baddbmm_(d_energy, k_b)
            d_k[b, keys].baddbmm_(d_energy.transpose(1, 2), q_b)
    return (d_q * scale).to(query.dtype), d_k.to(key.dtype), d_v.to(value.dtype)


def attend_tangent(  # noqa: PLR0913 - the flat arguments of an operator
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    log_sum: Tensor,
    t_query: Tensor,
    t_key: Tensor,
    t_value: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Tangent of the output (B, Nq, C), and of the row log-sum-exp (B, Nq), tile by tile.

    With weights P and energies E: tO_i = sum_j P_ij (tE_ij - m_i) V_j + P_ij tV_j, where
    m_i = sum_j P_ij tE_ij is the tangent of the log-sum-exp.
    """
    samples, row_parts, key_parts = _tiling(query, key)
    with no_autocast(query):
        q, k, v = upcast(query) * scale, upcast(key), upcast(value)
        t_q, t_k, t_v = upcast(t_query) * scale, upcast(t_key), upcast(t_value)
        t_out, mean = (torch.zeros(x.shape, dtype=q.dtype, device=q.device) for x in (out, log_sum))
        scratch = [_scratch(q, samples, row_parts, key_parts) for _ in range(2)]
        for b, rows, keys in product(samples, row_parts, key_parts):
            q_b, k_b = q[b, rows], k[b, keys]
            weights = _recomputed(q_b, k_b, log_sum[b, rows], scratch[0])
            slope = _energy_tangent(q_b, k_b, t_q[b, rows], t_k[b, keys], scratch[1])
            mean[b, rows] += slope.mul_(weights).sum(-1)
            t_out[b, rows].baddbmm_(slope, v[b, keys]).baddbmm_(weights, t_v[b, keys])
        t_out.addcmul_(mean[..., None], upcast(out), value=-1)
    return t_out.to(value.dtype), mean


def attend_backward_tangent(
    inputs: BackwardInputs,
    t_query: Tensor,
    t_key: Tensor,
    t_value: Tensor,
    t_out: Tensor,
    mean: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Tangent of the gradients of query, key and value, at a constant gradient of the output.

    As second derivatives are symmetric, this is also what the backward pass of the backward pass
    and of :func:`attend_tangent` need. ``t_out`` and ``mean`` are the results of the latter.
    """
    grad, query, key, value, out, log_sum, scale = inputs
    with no_autocast(query):
        q, k, v, g = upcast(query) * scale, upcast(key), upcast(value), upcast(grad)
        t_q, t_k, t_v = upcast(t_query) * scale, upcast(t_key), upcast(t_value)
        d_q, d_k, d_v = (torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
        row_sum = (g * upcast(out)).sum(-1, keepdim=True)  # (B, Nq, 1)
        t_row_sum = (g * upcast(t_out)).sum(-1, keepdim=True)
        samples, row_parts, key_parts = _tiling(query, key)
        scratch = [_scratch(q, samples, row_parts, key_parts) for _ in range(4)]
        for b, keys, rows in product(samples, key_parts, row_parts):
            q_b, k_b, t_q_b, t_k_b = q[b, rows], k[b, keys], t_q[b, rows], t_k[b, keys]
            g_b = g[b, rows]
            weights = _recomputed(q_b, k_b, log_sum[b, rows], scratch[0])
            t_weights = _energy_tangent(q_b, k_b, t_q_b, t_k_b, scratch[1])
            t_weights.sub_(mean[b, rows, None]).mul_(weights)
            d_v[b, keys].baddbmm_(t_weights.transpose(1, 2), g_b)
            slope = torch.bmm(g_b, v[b, keys].transpose(1, 2), out=_shaped(scratch[2], q_b, keys))
            slope.sub_(row_sum[b, rows])  # gradient of the weights, less its mean
            change = torch.bmm(
                g_b, t_v[b, keys].transpose(1, 2), out=_shaped(scratch[3], q_b, keys)
            )
            change.sub_(t_row_sum[b, rows]).mul_(weights).addcmul_(t_weights, slope)
            slope.mul_(weights)  # gradient of the energies; `change` is its tangent
            d_q[b, rows].baddbmm_(change, k_b).baddbmm_(slope, t_k_b)
            d_k[b, keys].baddbmm_(change.transpose(1, 2), q_b)
            d_k[b, keys].baddbmm_(slope.transpose(1, 2), t_q_b)
    return (d_q * scale).to(query.dtype), d_k.to(key.dtype), d_v.to(value.dtype)


def _recomputed(q: Tensor, k: Tensor, log_sum: Tensor, scratch: Tensor) -> Tensor:
    """Weights (b, n, m) of the rows ``q`` and keys ``k``, from the rows' log-sum-exp (b, n)."""
    energies = torch.bmm(q, k.transpose(1, 2), out=_shaped(scratch, q, slice(0, k.shape[1])))
    return energies.sub_(log_sum[..., None]).clamp_(min=FLOOR).exp_()


def _energy_tangent(q: Tensor, k: Tensor, t_q: Tensor, t_k: Tensor, scratch: Tensor) -> Tensor:
    """Tangent of the energies of a tile, (b, n, m)."""
    shape = _shaped(scratch, q, slice(0, k.shape[1]))
    return torch.bmm(t_q, k.transpose(1, 2), out=shape).baddbmm_(q, t_k.transpose(1, 2))


def parts(length: int, most: int) -> list[slice]:
    """Slices of nearly equal length, at most ``most``, that cover ``length``."""
    count = max(1, -(-length // most))  # -(-a // b) rounds up
    step = max(1, -(-length // count))
    return [slice(i, min(i + step, length)) for i in range(0, length, step)]


def _tiling(query: Tensor, key: Tensor) -> tuple[list[slice], list[slice], list[slice]]:
    """Slices of samples, of query rows and of keys; few keys leave room for more of the others."""
    area, keys = _TILE_ROWS * _TILE_KEYS, parts(key.shape[1], _TILE_KEYS)
    rows = parts(query.shape[1], max(_TILE_ROWS, area // keys[0].stop))
    largest = (rows[0].stop if rows else 1) * keys[0].stop  # no rows if Nq is 0
    return parts(query.shape[0], max(1, area // largest)), rows, keys


def _attend_rows(
    q: Tensor, k: Tensor, v: Tensor, keys: list[slice], out: Tensor, scratch: Tensor
) -> Tensor:
    """Write the attention of the rows ``q`` to ``out`` (b, n, C); return log-sum-exp (b, n).

    Weights are exp(energy - shift) with a shift near the largest energy so far, summed over tiles
    of keys and divided by their sum at the end.
    """
    shift = total = q.new_empty(0)
    for j in keys:
        weights = torch.bmm(q, k[..., j], out=_shaped(scratch, q, j))  # (b, n, m) energies
        peak = weights.amax(-1, keepdim=True)  # (b, n, 1)
        if j.start == 0:
            shift, total = peak, torch.zeros_like(peak)
        elif (peak > shift + _SLACK).any():
            higher = peak.maximum(shift)
            factor = (shift - higher).exp_()  # rescales what earlier tiles added
            shift, total = higher, total * factor
            out *= factor
        weights.sub_(shift).clamp_(min=FLOOR).exp_()
        total += weights.sum(-1, keepdim=True)
        _product(weights, v[:, j], out, first=j.start == 0)
    out /= total
    return (shift + total.log_()).squeeze(-1)


def _product(weights: Tensor, v: Tensor, out: Tensor, *, first: bool) -> None:
    """Store weights @ v in ``out``, or add it unless ``first``; half precision sums in float32."""
    if v.dtype != out.dtype:
        part = torch.bmm(weights.to(v.dtype), v)
        out.copy_(part) if first else out.add_(part)
    elif first:
        torch.bmm(weights, v, out=out)
    else:
        out.baddbmm_(weights, v)


def _scratch(like: Tensor, *parts: list[slice]) -> Tensor:
    """Memory for one tile, allocated once: fresh memory costs more than the work on it."""
    return like.new_empty(math.prod(part[0].stop for part in parts if part))


def _shaped(scratch: Tensor, rows: Tensor, keys: slice) -> Tensor:
    shape = *rows.shape[:2], keys.stop - keys.start  # (b, n, m)
    return scratch[: math.prod(shape)].view(shape)
