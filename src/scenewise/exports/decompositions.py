"""Decompositions of custom and unsupported operators into operators that every format has."""

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.export import ExportedProgram

import scenewise.attention  # noqa: F401  (defines the operators)
from scenewise.attention import criss_cross
from scenewise.attention.kernels.precision import upcast

_Table = dict[Any, Callable[..., Any]]


def _fused_position(
    query: Tensor, key: Tensor, value: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """``scenewise::position_attention`` as one fused attention operator.

    The second result, which only the backward pass needs, is a placeholder.

    >>> q, k, v = torch.randn(1, 5, 2), torch.randn(1, 7, 2), torch.randn(1, 7, 3)
    >>> dense = torch.softmax(0.5 * q @ k.transpose(1, 2), dim=-1) @ v
    >>> torch.allclose(_fused_position(q, k, v, 0.5)[0], dense, atol=1e-6)
    True
    """
    heads = (query[:, None], key[:, None], value[:, None])  # each (B, 1, N, D)
    return F.scaled_dot_product_attention(*heads, scale=scale)[:, 0], _unused(query)  # (B, Nq, C)


def _padded_position(
    query: Tensor, key: Tensor, value: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """:func:`_fused_position` with query and key zero-padded to the value's channels.

    PyTorch's linear-memory kernel for CPUs needs equal channels, contiguous in memory; else it
    falls back to the matrix of all pairs.
    """
    missing = value.shape[2] - query.shape[2]  # zeros add nothing to the products
    if missing > 0:
        query, key = F.pad(query, (0, missing)), F.pad(key, (0, missing))
    query, key, value = (
        x.clone(memory_format=torch.contiguous_format) for x in (query, key, value)
    )
    return _fused_position(query, key, value, scale)


def _unused(query: Tensor) -> Tensor:
    return upcast(query.new_zeros(query.shape[:2]))  # log-sum-exp, (B, Nq)


def _adaptive_average(x: Tensor, size: list[int]) -> Tensor:
    """``adaptive_avg_pool2d`` as two matrix products, for any height and width.

    >>> x = torch.randn(2, 3, 7, 11)
    >>> torch.allclose(_adaptive_average(x, [3, 6]), F.adaptive_avg_pool2d(x, (3, 6)), atol=1e-6)
    True
    """
    if list(size) == [1, 1]:
        return x.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
    rows, columns = _bins(x.shape[2], size[0], x), _bins(x.shape[3], size[1], x)
    return rows @ x @ columns.transpose(0, 1)  # (s, H) (B, C, H, W) (W, t) -> (B, C, s, t)


def _bins(length: int, count: int, like: Tensor) -> Tensor:
    """(count, length): row i averages from floor(i L / count) up to ceil((i + 1) L / count)."""
    position = torch.arange(length, device=like.device)
    i = torch.arange(count, device=like.device)[:, None]  # (count, 1)
    start = torch.div(i * length, count, rounding_mode="floor")
    stop = torch.div((i + 1) * length + count - 1, count, rounding_mode="floor")
    inside = (position >= start) & (position < stop)  # (count, length)
    return inside.to(like.dtype) / (stop - start).to(like.dtype)


CRISS_CROSS: _Table = {torch.ops.scenewise.criss_cross.default: criss_cross.decomposed}
FUSED: _Table = {torch.ops.scenewise.position_attention.default: _fused_position, **CRISS_CROSS}
PADDED: _Table = {torch.ops.scenewise.position_attention.default: _padded_position, **CRISS_CROSS}
POOLING: _Table = {
    torch.ops.aten.adaptive_avg_pool2d.default: _adaptive_average,
    torch.ops.aten._adaptive_avg_pool2d.default: _adaptive_average,
}


def without_modulo(program: ExportedProgram) -> ExportedProgram:
    """Replace ``a % b`` of sizes by ``a - a // b * b``, in place; a is not negative."""
    graph = program.graph
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is operator.mod:
            a, b = node.args
            with graph.inserting_before(node):
                quotient = graph.call_function(operator.floordiv, (a, b))
                multiple = graph.call_function(operator.mul, (quotient, b))
                remainder = graph.call_function(operator.sub, (a, multiple))
            node.replace_all_uses_with(remainder)
            graph.erase_node(node)
    return program
