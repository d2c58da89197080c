"""Position attention: every pixel gathers from every pixel alike to it.

Fu et al., "Dual Attention Network for Scene Segmentation", CVPR 2019, section 3.2.
"""

import math
from itertools import product

import torch
from torch import Tensor, nn

from scenewise.attention.precision import no_autocast, widen

# The map is walked in tiles of at most so many query rows and keys. One tile stays in the caches of
# a few cores, and is large enough for matrix products to run at full speed.
_TILE_ROWS, _TILE_KEYS = 1024, 2048
# Weights are exp(energy - shift) before they are divided by their sum. The shift follows the
# largest energy when that is _SLACK above it; e^10 fits float16. Energies below FLOOR are raised
# to it: e^-60 is far below any rounding, and processors take up to a hundred times longer for the
# subnormal numbers that would come of less.
_SLACK, FLOOR = 10.0, -60.0


def position_attention(query: Tensor, key: Tensor, value: Tensor, *, scale: float = 1.0) -> Tensor:
    r"""Exact softmax attention in linear memory.

    .. math:: o_i = \sum_j \operatorname{softmax}_j(s \, q_i \cdot k_j) \, v_j

    The map of all pairs is walked in tiles, forward and backward; the backward pass computes each
    tile again from the saved row log-sum-exp. No more than one tile is alive at any time, so memory
    grows with Nq + Nk, not with Nq * Nk. Sums over tiles follow Milakov and Gimelshein, "Online
    normalizer calculation for softmax", 2018. Energies, softmax and sums are float32 for
    half-precision inputs, also under autocast. Gradients are exact; second derivatives are not
    provided.

    Args:
        query: (B, Nq, D).
        key: (B, Nk, D).
        value: (B, Nk, C); C may differ from D.
        scale: factor s on the energies. DANet uses 1, most others D ** -0.5.

    Returns:
        (B, Nq, C), of the dtype of ``value``.

    Raises:
        ValueError: the shapes do not fit together.

    >>> q, k, v = torch.randn(1, 5, 2), torch.randn(1, 7, 2), torch.randn(1, 7, 3)
    >>> dense = torch.softmax(q @ k.transpose(1, 2), dim=-1) @ v
    >>> torch.allclose(position_attention(q, k, v), dense, atol=1e-6)
    True
    """
    _check_shapes(query, key, value)
    out: Tensor = _attend(query, key, value, scale)[0]
    return out


class PositionAttention(nn.Module):
    r"""DANet's position attention module (PAM).

    .. math:: y = \gamma \, \operatorname{softmax}(Q K^\top) V + x

    Q and K are 1x1 convolutions to C / ``reduction`` channels and V to C channels, all with bias;
    there is no 1/sqrt(d). The scalar gamma starts at 0, so the block starts as the identity. The
    paper prints Q and K with C channels; the released code, and this module, use C / 8.

    Args:
        channels: C, channels of the input and the output.
        reduction: C divided by the channels of query and key.

    >>> block = PositionAttention(16)
    >>> x = torch.randn(2, 16, 5, 7)
    >>> torch.equal(block(x), x)
    True
    >>> block.weights(x, at=(4, 6)).shape
    torch.Size([2, 5, 7])
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        if channels < reduction:
            raise ValueError(f"{channels} channels cannot be reduced by {reduction}")
        self.query = nn.Conv2d(channels, channels // reduction, 1)
        self.key = nn.Conv2d(channels, channels // reduction, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        rows = position_attention(
            pixels(self.query(x)), pixels(self.key(x)), pixels(self.value(x))
        )  # (B, N, C)
        return self.gamma * rows.transpose(1, 2).reshape(x.shape) + x

    def weights(self, x: Tensor, at: tuple[int, int] | None = None) -> Tensor:
        """What the pixel ``at`` = (row, column) gathers from: its row of the map, (B, H, W).

        The row is computed alone. Without ``at``, the whole map, (B, N, N), which is large.
        """
        queries = x if at is None else pixel(x, at)
        return attention_map(pixels(self.query(queries)), pixels(self.key(x)), x, at)


def pixels(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, N, C), pixels in reading order; a view, no copy."""
    return x.flatten(2).transpose(1, 2)


def pixel(x: Tensor, at: tuple[int, int]) -> Tensor:
    """The one pixel ``at`` = (row, column) of (B, C, H, W), as (B, C, 1, 1).

    Raises:
        ValueError: the pixel lies outside.
    """
    row, column = at
    height, width = x.shape[-2:]
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"pixel ({row}, {column}) is outside a map of {height} x {width}")
    return x[..., row : row + 1, column : column + 1]


def attention_map(
    query: Tensor, key: Tensor, x: Tensor, at: tuple[int, int] | None, scale: float = 1.0
) -> Tensor:
    """softmax(scale * query key^T): one row as a picture (B, H, W), or the map (B, Nq, Nk)."""
    with no_autocast(x):
        energy = widen(query) @ widen(key).transpose(1, 2) * scale
        weights = torch.softmax(energy, dim=-1)
    return weights if at is None else weights.reshape(x.shape[0], *x.shape[2:])


def _check_shapes(query: Tensor, key: Tensor, value: Tensor) -> None:
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if not query.ndim == key.ndim == value.ndim == 3:
        raise ValueError(f"expected (B, Nq, D), (B, Nk, D), (B, Nk, C); got {shapes}")
    if query.shape[0] != key.shape[0] or key.shape[:2] != value.shape[:2]:
        raise ValueError(f"batch or number of keys differ: {shapes}")
    if key.shape[1] == 0:
        raise ValueError(f"no keys to attend to: {shapes}")
    if query.shape[2] != key.shape[2]:
        raise ValueError(f"query and key differ in channels: {shapes}")


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


@torch.library.custom_op("scenewise::position_attention", mutates_args=())
def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Output (B, Nq, C) and row log-sum-exp (B, Nq)."""
    samples, rows, keys = _tiling(query, key)
    with no_autocast(query):
        q, k = widen(query) if scale == 1 else widen(query) * scale, widen(key).transpose(1, 2)
        v = value if len(rows) == 1 else value.contiguous()
        out = q.new_empty(*query.shape[:2], value.shape[2])
        log_sum = q.new_empty(query.shape[:2])
        scratch = _scratch(q, samples, rows, keys)
        for b, i in product(samples, rows):
            log_sum[b, i] = _attend_rows(q[b, i], k[b], v[b], keys, out[b, i], scratch)
    return out.to(value.dtype), log_sum


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


@_attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    out = value.new_empty(*query.shape[:2], value.shape[2])
    return out, widen(query.new_empty(query.shape[:2]))


@torch.library.custom_op("scenewise::position_attention_backward", mutates_args=())
def _attend_backward(
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
        q, k, v, d_out = widen(query) * scale, widen(key), widen(value), widen(grad)
        d_q, d_k, d_v = (torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
        samples, row_parts, key_parts = _tiling(query, key)
        scratch = [_scratch(q, samples, row_parts, key_parts) for _ in range(2)]
        whole = len(key_parts) == 1  # then a tile knows the sums of its rows
        row_sum = None if whole else (d_out * widen(out)).sum(-1, keepdim=True)
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


@_attend_backward.register_fake
def _(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    log_sum: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    query, key, value, ctx.scale = inputs
    ctx.save_for_backward(query, key, value, *output)
    ctx.set_materialize_grads(False)


def _backward(ctx, grad: Tensor | None, _: Tensor | None):  # type: ignore[no-untyped-def]
    if grad is None:
        return None, None, None, None
    query, key, value, out, log_sum = ctx.saved_tensors
    return *_attend_backward(grad, query, key, value, out, log_sum, ctx.scale), None


_attend.register_autograd(_backward, setup_context=_setup)
