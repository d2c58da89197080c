"""Position attention: each pixel aggregates all pixels, weighted by their similarity to it.

Fu et al., "Dual Attention Network for Scene Segmentation", CVPR 2019, section 3.2.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from scenewise.attention.kernels import autotune, tiled
from scenewise.attention.kernels.operators import Rules, define
from scenewise.attention.kernels.precision import no_autocast, upcast
from scenewise.attention.kernels.tiled import BackwardInputs
from scenewise.attention.layers import check_batch, load_public, public_widths, reduced

Kept = tuple[Tensor, ...]
Gradients = tuple[Tensor | None, ...]
_Shape = tuple[int, ...]


def position_attention(query: Tensor, key: Tensor, value: Tensor, *, scale: float = 1.0) -> Tensor:
    r"""Exact softmax attention in linear memory.

    .. math:: o_i = \sum_j \operatorname{softmax}_j(s \, q_i \cdot k_j) \, v_j

    The attention map is computed in tiles, forward and backward; the backward pass recomputes each
    tile from the saved row log-sum-exp. Only one tile is in memory at any time, so memory grows
    with Nq + Nk, not with Nq * Nk. Sums over tiles follow Milakov and Gimelshein, "Online
    normalizer calculation for softmax", 2018. ``kernels.tiled`` has the arithmetic; on CUDA GPUs
    ``kernels.autotune`` also tries other kernels. Energies, softmax and sums are float32 for
    half-precision inputs, also under autocast. Gradients, second derivatives and forward mode are
    exact and in linear memory; third derivatives, and forward mode within forward mode, raise a
    NotImplementedError.

    Args:
        query: (B, Nq, D).
        key: (B, Nk, D).
        value: (B, Nk, C); C may differ from D.
        scale: factor s of the energies: 1 in DANet, D ** -0.5 in most others.

    Returns:
        (B, Nq, C), of the dtype of ``value``.

    Raises:
        ValueError: the shapes do not match.

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
        inner = reduced(channels, reduction)
        self.query = nn.Conv2d(channels, inner, 1)
        self.key = nn.Conv2d(channels, inner, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    @classmethod
    def from_public(cls, state: Mapping[str, Tensor]) -> Self:
        """The block with the trained weights of the authors' module (``PAM_Module``).

        Args:
            state: its ``state_dict()``: ``query_conv``, ``key_conv``, ``value_conv`` and ``gamma``.

        Raises:
            ValueError: tensors are missing, unknown or of other shapes.
        """
        return load_public(cls(*public_widths(state)), state)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        check_batch(x)
        rows = position_attention(
            pixels(self.query(x)), pixels(self.key(x)), pixels(self.value(x))
        )  # (B, N, C)
        return self.gamma * feature_map(rows, x) + x

    def weights(self, x: Tensor, at: tuple[int, int] | None = None) -> Tensor:
        """Attention weights of the pixel ``at`` = (row, column) over all pixels: (B, H, W).

        Only that row is computed. Without ``at``, the whole attention map, (B, N, N), is returned.
        """
        check_batch(x)
        queries = x if at is None else pixel(x, at)
        return attention_map(pixels(self.query(queries)), pixels(self.key(x)), x, at)


def pixels(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, N, C), pixels in row-major order; a view, no copy."""
    return x.flatten(2).transpose(1, 2)


def feature_map(rows: Tensor, like: Tensor) -> Tensor:
    """(B, N, C) -> (B, C, H, W), the size of ``like``: the inverse of :func:`pixels`; a view."""
    return rows.transpose(1, 2).reshape(rows.shape[0], rows.shape[2], *like.shape[2:])


def pixel(x: Tensor, at: tuple[int, int]) -> Tensor:
    """The one pixel ``at`` = (row, column) of (B, C, H, W), as (B, C, 1, 1).

    Raises:
        ValueError: the pixel is outside the feature map.
    """
    row, column = at
    height, width = x.shape[-2:]
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"pixel {at} is outside the feature map of {height} x {width}")
    return x[..., row : row + 1, column : column + 1]


def attention_map(
    query: Tensor, key: Tensor, x: Tensor, at: tuple[int, int] | None, scale: float = 1.0
) -> Tensor:
    """softmax(scale * query key^T): (B, Nq, Nk), or with ``at`` one row as (B, H, W)."""
    with no_autocast(x):
        energy = upcast(query) @ upcast(key).transpose(1, 2) * scale  # (B, Nq, Nk)
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


def _kernel(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    attend = autotune.attend if query.is_cuda else tiled.attend
    return attend(query, key, value, scale)


def _backward_kernel(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    named = BackwardInputs(*inputs)  # operators take flat arguments, no named tuples
    attend = autotune.attend_backward if named.query.is_cuda else tiled.attend_backward
    return attend(named)


def _backward_tangent_kernel(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    named = BackwardInputs._make((*inputs[:6], inputs[-1]))
    return tiled.attend_backward_tangent(named, *inputs[6:-1])


def _fake(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    out = value.new_empty(*query.shape[:2], value.shape[2])
    return out, upcast(query.new_empty(query.shape[:2]))


def _fake_gradients(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: object
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _filled(tangents: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    """Zeros for the tangents or gradients that are None."""
    pairs = zip(tangents, like, strict=True)
    return [torch.zeros_like(x) if tangent is None else tangent for tangent, x in pairs]


# Second derivatives are closed under four operators: the derivative of the backward pass in a
# direction is the same in reverse mode and in forward mode. ``out``, ``log_sum``, ``t_out`` and
# ``mean`` are functions of the other inputs, whose derivatives include theirs.


def _rules() -> Rules:
    """Of the attention (query, key, value) -> (out, log_sum)."""

    def backward(kept: Kept, scale: float, grad: Tensor | None, _: object) -> Gradients:
        (grad,) = _filled([grad], kept[3:4])
        gradients: Gradients = _attend_backward(grad, *kept, scale)
        return gradients

    def tangent(kept: Kept, scale: float, *tangents: Tensor | None) -> Gradients:
        result: Gradients = _attend_tangent(*kept, *_filled(tangents, kept[:3]), scale)
        return result

    return Rules(lambda inputs, outputs: (*inputs[:3], *outputs), backward, tangent)


def _backward_rules() -> Rules:
    """Of the backward pass (grad, query, key, value, out, log_sum) -> gradients."""

    def backward(kept: Kept, scale: float, *directions: Tensor | None) -> Gradients:
        filled = _filled(directions, kept[1:4])
        t_out, mean = _attend_tangent(*kept[1:], *filled, scale)
        change = _second(*kept, *filled, t_out, mean, scale)
        return t_out, *change, None, None

    def tangent(
        kept: Kept, scale: float, t_grad: Tensor | None, *tangents: Tensor | None
    ) -> Gradients:
        filled = _filled(tangents[:3], kept[1:4])
        t_out, mean = _attend_tangent(*kept[1:], *filled, scale)
        change = _second(*kept, *filled, t_out, mean, scale)
        if t_grad is None:
            return tuple(change)
        linear = _attend_backward(t_grad, *kept[1:], scale)
        return tuple(a + b for a, b in zip(change, linear, strict=True))

    return Rules(lambda inputs, _: inputs[:6], backward, tangent)


def _tangent_rules() -> Rules:
    """Of the tangent (query, key, value, out, log_sum, t_query, ...) -> (t_out, mean)."""

    def backward(kept: Kept, scale: float, grad: Tensor | None, _: object) -> Gradients:
        (grad,) = _filled([grad], kept[3:4])
        change = _second(grad, *kept, scale)
        return *change, None, None, *_attend_backward(grad, *kept[:5], scale)

    def tangent(kept: Kept, scale: float, *tangents: Tensor | None) -> Gradients:
        if any(t is not None for t in tangents[:3]):
            _not_available()
        result: Gradients = _attend_tangent(*kept[:5], *_filled(tangents[5:], kept[5:8]), scale)
        return result

    return Rules(lambda inputs, outputs: (*inputs[:8], *outputs), backward, tangent)


def _second_rules() -> Rules:
    """Of the backward pass's tangent (grad, query, ..., t_query, ...): linear in the latter."""

    def backward(kept: Kept, scale: float, *directions: Tensor | None) -> Gradients:
        filled = _filled(directions, kept[1:4])
        results = _attend_tangent(*kept[1:], *filled, scale)
        change = _attend_backward_tangent(*kept, *filled, *results, scale)
        return *(None for _ in kept), *change, None, None

    def tangent(kept: Kept, scale: float, *tangents: Tensor | None) -> Gradients:
        if any(t is not None for t in tangents[:4]):
            _not_available()
        return backward(kept, scale, *tangents[6:9])[6:9]

    return Rules(lambda inputs, _: inputs[:6], backward, tangent)


def _not_available(*_: object) -> Gradients:
    raise NotImplementedError(
        "position attention has first and second derivatives, also as torch.func.hessian, but no "
        "third ones and no forward mode within forward mode; for those, use "
        "torch.softmax(scale * query @ key.mT, dim=-1) @ value"
    )


def _second(*inputs: Any) -> list[Tensor]:
    """The backward pass's tangent; whoever needs its derivatives by ``grad`` to ``value`` raises.

    The zeros that are added are in the graph for that alone. So derivatives by the direction, which
    ``torch.autograd.functional.hvp`` needs, do not raise.
    """
    zeros = _third_derivative(*inputs[:4])
    return [change + zeros.to(change.dtype) for change in _attend_backward_tangent(*inputs)]


def _flops(of_keys: int, of_values: int) -> Callable[..., int]:
    """Products of all pairs, with the D channels of query and key and the C of the value.

    Args:
        of_keys: number of products with D channels; 1 recomputes the energies.
        of_values: number of products with C channels.
    """

    def count(query: _Shape, key: _Shape, value: _Shape, *_: _Shape) -> int:
        pairs = query[0] * query[1] * key[1]  # B Nq Nk
        return 2 * pairs * (of_keys * query[2] + of_values * value[2])

    return count


def _flops_after_grad(of_keys: int, of_values: int) -> Callable[..., int]:
    count = _flops(of_keys, of_values)
    return lambda _, *shapes: count(*shapes)


_QKV = "Tensor query, Tensor key, Tensor value"
_attend = define(
    f"position_attention({_QKV}, float scale) -> (Tensor, Tensor)",
    _kernel,
    _fake,
    _rules(),
    _flops(1, 1),  # energies, weighted sum
)
_attend_backward = define(
    f"position_attention_backward(Tensor grad, {_QKV}, Tensor out, Tensor log_sum, float scale)"
    " -> (Tensor, Tensor, Tensor)",
    _backward_kernel,
    _fake_gradients,
    _backward_rules(),
    _flops_after_grad(3, 2),  # energies again, dQ, dK; dV, dA
)
_attend_tangent = define(
    f"position_attention_tangent({_QKV}, Tensor out, Tensor log_sum, Tensor t_query, Tensor t_key,"
    " Tensor t_value, float scale) -> (Tensor, Tensor)",
    tiled.attend_tangent,
    lambda query, key, value, *_: _fake(query, key, value, 1.0),
    _tangent_rules(),
    _flops(3, 2),
)
_attend_backward_tangent = define(
    f"position_attention_backward_tangent(Tensor grad, {_QKV}, Tensor out, Tensor log_sum,"
    " Tensor t_query, Tensor t_key, Tensor t_value, Tensor t_out, Tensor mean, float scale)"
    " -> (Tensor, Tensor, Tensor)",
    _backward_tangent_kernel,
    _fake_gradients,
    _second_rules(),
    _flops_after_grad(7, 3),
)
_third_derivative = define(
    f"position_attention_third(Tensor grad, {_QKV}) -> Tensor",
    lambda *inputs: inputs[0].new_zeros(inputs[0].shape[0], 1, 1),
    lambda *inputs: inputs[0].new_empty(inputs[0].shape[0], 1, 1),
    Rules(lambda *_: (), _not_available, lambda *_: None),
    lambda *_: 0,
)
