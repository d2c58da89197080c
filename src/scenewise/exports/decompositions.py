"""Our operators, and those that a format cannot follow, in operators that every format knows."""

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

Twins = dict[Any, Callable[..., Any]]


def fused_position(
    query: Tensor, key: Tensor, value: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """``scenewise::position_attention`` as one fused attention operator.

    The second result, which only the backward pass needs, is a placeholder.

    >>> q, k, v = torch.randn(1, 5, 2), torch.randn(1, 7, 2), torch.randn(1, 7, 3)
    >>> dense = torch.softmax(0.5 * q @ k.transpose(1, 2), dim=-1) @ v
    >>> torch.allclose(fused_position(q, k, v, 0.5)[0], dense, atol=1e-6)
    True
    """
    heads = (query[:, None], key[:, None], value[:, None])
    return F.scaled_dot_product_attention(*heads, scale=scale)[:, 0], _unused(query)


def padded_position(
    query: Tensor, key: Tensor, value: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """:func:`fused_position` with query and key filled with zeros to the value's channels.

    PyTorch's linear-memory kernel for CPUs wants equal channels, next to each other; without them
    it holds the map of all pairs.
    """
    missing = value.shape[2] - query.shape[2]
    if missing > 0:
        query, key = F.pad(query, (0, missing)), F.pad(key, (0, missing))
    query, key, value = (
        x.clone(memory_format=torch.contiguous_format) for x in (query, key, value)
    )
    return fused_position(query, key, value, scale)


def _unused(query: Tensor) -> Tensor:
    return upcast(query.new_zeros(query.shape[:2]))


def adaptive_average(x: Tensor, size: list[int]) -> Tensor:
    """``adaptive_avg_pool2d`` as two products of matrices, for any height and width.

    >>> x = torch.randn(2, 3, 7, 11)
    >>> torch.allclose(adaptive_average(x, [3, 6]), F.adaptive_avg_pool2d(x, (3, 6)), atol=1e-6)
    True
    """
    if list(size) == [1, 1]:
        return x.mean((2, 3), keepdim=True)
    return _bins(x.shape[2], size[0], x) @ x @ _bins(x.shape[3], size[1], x).transpose(0, 1)


def _bins(length: int, count: int, like: Tensor) -> Tensor:
    """(count, length): row i averages from floor(i L / count) up to ceil((i + 1) L / count)."""
    place = torch.arange(length, device=like.device)
    i = torch.arange(count, device=like.device)[:, None]
    start = torch.div(i * length, count, rounding_mode="floor")
    stop = torch.div((i + 1) * length + count - 1, count, rounding_mode="floor")
    inside = (place >= start) & (place < stop)
    return inside.to(like.dtype) / (stop - start).to(like.dtype)


CRISS_CROSS: Twins = {torch.ops.scenewise.criss_cross.default: criss_cross.decomposed}
FUSED: Twins = {torch.ops.scenewise.position_attention.default: fused_position, **CRISS_CROSS}
PADDED: Twins = {torch.ops.scenewise.position_attention.default: padded_position, **CRISS_CROSS}
POOLING: Twins = {
    torch.ops.aten.adaptive_avg_pool2d.default: adaptive_average,
    torch.ops.aten._adaptive_avg_pool2d.default: adaptive_average,
}


def without_modulo(program: ExportedProgram) -> ExportedProgram:
    """Write ``a % b`` of sizes as ``a - a // b * b``, in place; a is not negative."""
    graph = program.graph
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is operator.mod:
            a, b = node.args
            with graph.inserting_before(node):
                whole = graph.call_function(operator.floordiv, (a, b))
                multiple = graph.call_function(operator.mul, (whole, b))
                rest = graph.call_function(operator.sub, (a, multiple))
            node.replace_all_uses_with(rest)
            graph.erase_node(node)
    return program
