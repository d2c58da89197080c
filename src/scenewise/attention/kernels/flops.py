"""FLOPs of the package's operators, for ``torch.utils.flop_counter.FlopCounterMode``.

Products of pairs, with the D channels of query and key and with the C channels of the value: two
operations each. The backward pass recomputes the energies.
"""

from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

import scenewise.attention.criss_cross
import scenewise.attention.position  # noqa: F401  (both define the operators)

_Shape = tuple[int, ...]


@register_flop_formula(torch.ops.scenewise.position_attention)
def _position(query: _Shape, key: _Shape, value: _Shape, *_: Any, **__: Any) -> int:
    return _pairs(query, key) * (query[2] + value[2])  # energies, weighted sum


@register_flop_formula(torch.ops.scenewise.position_attention_backward)
def _position_backward(
    grad: _Shape, query: _Shape, key: _Shape, value: _Shape, *_: Any, **__: Any
) -> int:
    return _pairs(query, key) * (3 * query[2] + 2 * value[2])  # recomputed, dQ, dK; dV, dA


@register_flop_formula(torch.ops.scenewise.position_attention_tangent)
def _position_tangent(query: _Shape, key: _Shape, value: _Shape, *_: Any, **__: Any) -> int:
    return _pairs(query, key) * (3 * query[2] + 2 * value[2])


@register_flop_formula(torch.ops.scenewise.position_attention_backward_tangent)
def _position_backward_tangent(
    grad: _Shape, query: _Shape, key: _Shape, value: _Shape, *_: Any, **__: Any
) -> int:
    return _pairs(query, key) * (7 * query[2] + 3 * value[2])


@register_flop_formula(torch.ops.scenewise.criss_cross)
def _criss_cross(query: _Shape, key: _Shape, value: _Shape, *_: Any, **__: Any) -> int:
    return _crosses(query) * (query[1] + value[1])  # energies, weighted sum


@register_flop_formula(torch.ops.scenewise.criss_cross_backward)
def _criss_cross_backward(
    grad: _Shape, query: _Shape, key: _Shape, value: _Shape, *_: Any, **__: Any
) -> int:
    return _crosses(query) * (3 * query[1] + 2 * value[1])  # as above


def _pairs(query: _Shape, key: _Shape) -> int:
    """FLOPs for one channel of all pairs, 2 B Nq Nk."""
    return 2 * query[0] * query[1] * key[1]


def _crosses(query: _Shape) -> int:
    """FLOPs for one channel of all pixels in one row or column, 2 B H W (H + W)."""
    batch, _, height, width = query
    return 2 * batch * height * width * (height + width)
