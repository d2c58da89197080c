"""Criss-cross attention: each pixel attends to its row and its column, in several rounds.

Huang et al., "CCNet: Criss-Cross Attention for Semantic Segmentation", ICCV 2019.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Self

import torch
from torch import Tensor, nn

from scenewise.attention.kernels.operators import Rules, define, has_tangent
from scenewise.attention.kernels.precision import FLOOR, no_autocast, upcast
from scenewise.attention.kernels.tiled import parts
from scenewise.attention.layers import check_batch, load_public, public_widths, reduced
from scenewise.attention.position import pixel

_Shape = tuple[int, ...]
_ROWS = 20  # of pixels whose weights are in memory at once; fewer read columns more often


def criss_cross_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    r"""Softmax attention of every pixel over the H + W - 1 pixels of its row and its column.

    .. math:: o_i = \sum_{j \in \text{row}(i) \cup \text{column}(i)}
              \operatorname{softmax}_j(q_i \cdot k_j) \, v_j

    One softmax covers the row and the column; the pixel itself is counted once, in its row. Time is
    O(N (H + W)); memory is O(N), as only the weights of a few rows of pixels are in memory and the
    backward pass recomputes them. Energies and softmax are float32 for half-precision inputs, also
    under autocast. Derivatives of any order and in forward mode are exact; all but the first
    gradient hold the weights of all crosses, O(N (H + W)).

    Args:
        query: (B, D, H, W).
        key: (B, D, H, W).
        value: (B, C, H, W); C may differ from D. Channels-last tensors are used without a copy.

    Returns:
        (B, C, H, W), channels last, of the dtype of ``value``.

    Raises:
        ValueError: the shapes do not match.

    >>> q, k, v = torch.randn(3, 1, 2, 5, 7)
    >>> criss_cross_attention(q, k, v).shape
    torch.Size([1, 2, 5, 7])
    """
    _check_shapes(query, key, value)
    out: Tensor = _attend(query, key, value, value.new_ones(1))[0]
    return out


class CrissCrossAttention(nn.Module):
    r"""CCNet's criss-cross attention, repeated with shared weights.

    .. math:: y = \gamma \, \operatorname{crisscross}(Q, K, V) + x

    Q and K are 1x1 convolutions to C / ``reduction`` channels and V to C channels, all with bias;
    there is no 1/sqrt(d), as in the released code. After two rounds every pixel has received from
    every pixel. The scalar gamma starts at 0, so the block starts as the identity. The output keeps
    the memory format of the input.

    Args:
        channels: C, channels of the input and the output.
        reduction: C divided by the channels of query and key.
        recurrence: number of rounds, all with the same weights.

    >>> block = CrissCrossAttention(16)
    >>> x = torch.randn(2, 16, 5, 7)
    >>> torch.equal(block(x), x)
    True
    >>> block.weights(x, at=(4, 6)).shape
    torch.Size([2, 5, 7])
    """

    def __init__(self, channels: int, reduction: int = 8, recurrence: int = 2) -> None:
        super().__init__()
        if recurrence < 1:
            raise ValueError(f"recurrence must be at least 1, got {recurrence}")
        inner = reduced(channels, reduction)
        self.recurrence = recurrence
        self.query = nn.Conv2d(channels, inner, 1)
        self.key = nn.Conv2d(channels, inner, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    @classmethod
    def from_public(cls, state: Mapping[str, Tensor], recurrence: int = 1) -> Self:
        """The block with the trained weights of the authors' module (``CrissCrossAttention``).

        Args:
            state: its ``state_dict()``: ``query_conv``, ``key_conv``, ``value_conv`` and ``gamma``.
            recurrence: how often it was applied; the module itself is one round, CCNet has two.

        Raises:
            ValueError: tensors are missing, unknown or of other shapes.
        """
        return load_public(cls(*public_widths(state), recurrence), state)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        check_batch(x)
        y = _rows(x).permute(0, 3, 1, 2)  # channels last
        for _ in range(self.recurrence):
            y = self._round(y)
        return y.contiguous() if x.is_contiguous() else y

    def weights(
        self,
        x: Tensor,
        at: tuple[int, int] | None = None,
        crosses: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Attention weights of the pixel ``at`` = (row, column) over all rounds: (B, H, W).

        A row of the product A_R ... A_1 of the attention maps of the rounds, computed without any
        N x N map. Without ``at``, the whole product (B, N, N) is returned. ``crosses``, the result
        of :meth:`crosses` for ``x``, is the same for all pixels; pass it to save time.
        """
        if crosses is None:
            crosses = self.crosses(x)
        height, width = x.shape[2:]
        if at is None:
            starts = torch.eye(height * width, dtype=crosses[0].dtype, device=x.device)
            starts = starts.view(-1, height, width)  # one-hot maps of M = N pixels
        else:
            pixel(x, at)  # checks
            starts = crosses[0].new_zeros(1, height, width)
            starts[0, at[0], at[1]] = 1
        reached = starts.expand(x.shape[0], *starts.shape)  # (B, M, H, W)
        for cross in reversed(crosses):
            down = torch.einsum("bmhw,bhwk->bmkw", reached, cross[..., :height])
            reached = down + torch.einsum("bmhw,bhwk->bmhk", reached, cross[..., height:])
        return reached.flatten(2) if at is None else reached[:, 0]

    def crosses(self, x: Tensor) -> list[Tensor]:
        """Attention weights in each round, (B, H, W, H + W): a pixel's column, then its row."""
        check_batch(x)
        crosses = []
        for k in range(self.recurrence):
            x = self._round(x) if k else x
            query, key = self.query(x), self.key(x)
            with no_autocast(x):
                crosses.append(_softmax(query, key))
        return crosses

    def _round(self, x: Tensor) -> Tensor:
        out: Tensor = _attend(self.query(x), self.key(x), self.value(x), self.gamma)[0]
        return x + out


def _check_shapes(query: Tensor, key: Tensor, value: Tensor) -> None:
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if not query.ndim == key.ndim == value.ndim == 4:
        raise ValueError(f"expected (B, D, H, W), (B, D, H, W), (B, C, H, W); got {shapes}")
    if query.shape != key.shape:
        raise ValueError(f"query and key differ: {shapes}")
    if query.shape[0] != value.shape[0] or query.shape[2:] != value.shape[2:]:
        raise ValueError(f"batch, height or width differ: {shapes}")


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C) with unit stride over C; a view for channels-last input."""
    x = x.permute(0, 2, 3, 1)
    return x if x.stride(3) == 1 else x.contiguous()


def _like_rows(x: Tensor) -> Tensor:
    """An empty channels-last tensor of the shape of ``x`` (B, C, H, W)."""
    return torch.empty_like(x, memory_format=torch.channels_last)


def _products(a: Tensor, b: Tensor, rows: slice, out: Tensor) -> Tensor:
    """Products of each pixel of ``a`` with the pixels of ``b`` in its column and in its row.

    Args:
        a: (n, W, D), some rows of a feature map.
        b: (H, W, D), a feature map.
        rows: the n of the H rows that ``a`` holds.
        out: memory for n or more rows of the result.

    Returns:
        (n, W, H + W): first the column, then the row.
    """
    height, both = len(b), out[: len(a)]
    down, along = both[..., :height].transpose(0, 1), both[..., height:]  # (W, n, H), (n, W, W)
    torch.bmm(a.transpose(0, 1), b.permute(1, 2, 0), out=down)  # (W, n, D) x (W, D, H)
    torch.bmm(a, b[rows].transpose(1, 2), out=along)  # (n, W, D) x (n, D, W)
    return both


def _gather(weights: Tensor, source: Tensor, out: Tensor, rows: slice) -> None:
    """out_i = sum of w_ij s_j over the cross of i, for the pixels i in ``rows``.

    ``weights`` are (n, W, H + W); ``source`` and ``out`` are (H, W, C).
    """
    height, some = len(source), out[rows]
    torch.bmm(weights[..., height:], source[rows], out=some)  # along rows, (n, W, C)
    down = weights[..., :height].transpose(0, 1)  # (W, n, H)
    some.transpose(0, 1).baddbmm_(down, source.transpose(0, 1))  # along columns, (W, n, C)


def _scatter(weights: Tensor, source: Tensor, out: Tensor, rows: slice) -> None:
    """out_j += sum of w_ij s_i over the i in ``rows`` whose cross has j: the adjoint of _gather."""
    height, some = len(source), source[rows]
    out[rows].baddbmm_(weights[..., height:].transpose(1, 2), some)
    down = weights[..., :height].permute(1, 2, 0)  # (W, H, n)
    out.transpose(0, 1).baddbmm_(down, some.transpose(0, 1))


def _own(crosses: Tensor, rows: slice) -> Tensor:
    """The entry of each pixel itself in its column, of (n, W, H + W): a view (W, n)."""
    return crosses[..., rows].diagonal(dim1=0, dim2=2)  # row index = position in the column


def _exponentials(energies: Tensor, shift: Tensor, rows: slice) -> Tensor:
    """exp(energies - shift), in place; the pixel itself counts as 0 in its column."""
    weights = energies.sub_(shift).clamp_(min=FLOOR).exp_()
    _own(weights, rows).zero_()
    return weights


def _scratch(like: Tensor, row_parts: list[slice]) -> Tensor:
    """Memory for the weights of the largest part, allocated once."""
    height, width = like.shape[-3:-1]
    return like.new_empty(row_parts[0].stop, width, height + width)


def decomposed(query: Tensor, key: Tensor, value: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """The operator below in standard PyTorch operators, for export formats that know no others.

    Use as ``program.run_decompositions({torch.ops.scenewise.criss_cross.default: decomposed})``.

    Returns:
        gamma times the attention (B, C, H, W), and the log-sum-exp (B, H, W, 1) of each cross.
    """
    energies = _cross_products(upcast(query), upcast(key))  # (B, H, W, H + W)
    energies = energies.masked_fill(_own_in_column(query), float("-inf"))
    weights = (energies.softmax(-1) * gamma).to(value.dtype)
    return _collect(weights, value), energies.logsumexp(-1, keepdim=True)


def _kernel(query: Tensor, key: Tensor, value: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """gamma times the attention (B, C, H, W), and the log-sum-exp (B, H, W, 1) of each cross."""
    out = _like_rows(value)
    with no_autocast(query):
        q, k, v = _rows(upcast(query)), _rows(upcast(key)), _rows(value)
        o, log_sum = _rows(out), q.new_empty(*q.shape[:3], 1)  # (B, H, W, C), (B, H, W, 1)
        row_parts = parts(query.shape[2], _ROWS)
        scratch = _scratch(q, row_parts)
        for b, rows in product(range(len(q)), row_parts):
            energies = _products(q[b, rows], k[b], rows, scratch)  # (n, W, H + W)
            peak = energies.amax(-1, keepdim=True)
            weights = _exponentials(energies, peak, rows)
            total = weights.sum(-1, keepdim=True)
            log_sum[b, rows] = peak + total.log()
            _gather(weights.mul_(gamma / total).to(v.dtype), v[b], o[b], rows)
    return out, log_sum


def _fake(query: Tensor, key: Tensor, value: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    batch, _, height, width = query.shape
    return _like_rows(value), upcast(query.new_empty(batch, height, width, 1))


def _backward_kernel(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, gamma: Tensor, log_sum: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value and gamma."""
    d_query, d_key, d_value = _like_rows(query), _like_rows(key).zero_(), _like_rows(value).zero_()
    d_gamma = log_sum.new_zeros(1)
    with no_autocast(query):
        q, k, v, g = _rows(upcast(query)), _rows(upcast(key)), _rows(value), _rows(grad)
        d_q, d_k, d_v = _rows(d_query), _rows(d_key), _rows(d_value)
        row_parts = parts(query.shape[2], _ROWS)
        scratch, second = _scratch(q, row_parts), _scratch(v, row_parts)
        for b, rows in product(range(len(q)), row_parts):
            energies = _products(q[b, rows], k[b], rows, scratch)
            weights = _exponentials(energies, log_sum[b, rows], rows)
            d_weights = upcast(_products(g[b, rows], v[b], rows, second)).mul_(weights)
            row_sum = d_weights.sum(-1, keepdim=True)
            d_gamma += row_sum.sum()
            d_energies = d_weights.addcmul_(weights, row_sum, value=-1).mul_(gamma).to(query.dtype)
            _scatter(weights.mul_(gamma).to(v.dtype), g[b], d_v[b], rows)
            _gather(d_energies, _rows(key)[b], d_q[b], rows)
            _scatter(d_energies, _rows(query)[b], d_k[b], rows)
    return d_query, d_key, d_value, d_gamma.to(gamma.dtype)


def _fake_gradients(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, gamma: Tensor, *_: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _like_rows(query), _like_rows(key), _like_rows(value), torch.empty_like(gamma)


# Forward mode and second derivatives hold the weights of all crosses, (B, H, W, H + W), in standard
# operators, which PyTorch differentiates further; never the map of all pairs.


def _cross_products(a: Tensor, b: Tensor) -> Tensor:
    """(B, D, H, W) twice -> (B, H, W, H + W): products with the column, then with the row."""
    down, along = torch.einsum("bdhw,bdkw->bhwk", a, b), torch.einsum("bdhw,bdhk->bhwk", a, b)
    return torch.cat([down, along], dim=-1)


def _own_in_column(x: Tensor) -> Tensor:
    """(H, 1, H + W): where the weight of a pixel itself would be counted a second time."""
    height, width = x.shape[2:]
    own = torch.eye(height, dtype=torch.bool, device=x.device)
    return nn.functional.pad(own, (0, width))[:, None]


def _softmax(query: Tensor, key: Tensor) -> Tensor:
    """Weights (B, H, W, H + W), in standard operators."""
    energies = _cross_products(upcast(query), upcast(key))
    return energies.masked_fill(_own_in_column(query), float("-inf")).softmax(-1)


def _collect(weights: Tensor, source: Tensor) -> Tensor:
    """Sums of ``source`` (B, C, H, W) over the crosses, of that shape: _gather out of place."""
    height = source.shape[2]
    down = torch.einsum("bhwk,bckw->bchw", weights[..., :height], source)
    return down + torch.einsum("bhwk,bchk->bchw", weights[..., height:], source)


def _distribute(weights: Tensor, source: Tensor) -> Tensor:
    """The adjoint of _collect: _scatter out of place."""
    height = source.shape[2]
    down = torch.einsum("bhwk,bchw->bckw", weights[..., :height], source)
    return down + torch.einsum("bhwk,bchw->bchk", weights[..., height:], source)


def _tangent(
    kept: Sequence[Tensor],
    t_query: Tensor | None,
    t_key: Tensor | None,
    t_value: Tensor | None,
    t_gamma: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Tangents of the output and of the log-sum-exp; None is 0."""
    query, key, value, gamma = kept
    with no_autocast(query):
        q, k, v = upcast(query), upcast(key), upcast(value)
        weights = _softmax(q, k)
        slope = torch.zeros_like(weights)
        if t_query is not None:
            slope = slope + _cross_products(upcast(t_query), k)
        if t_key is not None:
            slope = slope + _cross_products(q, upcast(t_key))
        mean = (weights * slope).sum(-1, keepdim=True)
        t_weights = weights * (slope - mean)
        t_out = gamma * _collect(t_weights, v)
        if t_value is not None:
            t_out = t_out + gamma * _collect(weights, upcast(t_value))
        if t_gamma is not None:
            t_out = t_out + t_gamma * _collect(weights, v)
    return t_out.to(value.dtype), mean


def _gradients(grad: Tensor, kept: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the backward operator returns, in standard operators."""
    query, key, value, gamma = kept
    with no_autocast(query):
        q, k, v, g = upcast(query), upcast(key), upcast(value), upcast(grad)
        weights = _softmax(q, k)
        d_weights = weights * _cross_products(g, v)  # weights: the pixel's own column entry is 0
        row_sum = d_weights.sum(-1, keepdim=True)
        d_energies = gamma * (d_weights - weights * row_sum)
        return (
            _collect(d_energies, k).to(query.dtype),
            _distribute(d_energies, q).to(key.dtype),
            _distribute(gamma * weights, g).to(value.dtype),
            row_sum.sum().reshape(1).to(gamma.dtype),
        )


def _backward(
    kept: Sequence[Tensor], grad: Tensor | None, _: Tensor | None
) -> Sequence[Tensor | None]:
    if grad is None:
        return None, None, None, None
    if torch.is_grad_enabled() or has_tangent(grad, *kept):
        return _gradients(grad, kept[:4])
    gradients: Sequence[Tensor] = _attend_backward(grad, *kept)
    return gradients


def _not_differentiable(*_: object) -> Sequence[Tensor]:
    raise NotImplementedError(
        "this gradient of criss-cross attention was computed without a graph; pass "
        "create_graph=True, and use no compiled network, to differentiate it again"
    )


def _crosses(query: _Shape) -> int:
    """FLOPs for one channel of all pixels in one row or column, 2 B H W (H + W)."""
    batch, _, height, width = query
    return 2 * batch * height * width * (height + width)


def _flops(query: _Shape, _: _Shape, value: _Shape, *__: _Shape) -> int:
    return _crosses(query) * (query[1] + value[1])  # energies, weighted sum


def _backward_flops(_: _Shape, query: _Shape, __: _Shape, value: _Shape, *___: _Shape) -> int:
    return _crosses(query) * (3 * query[1] + 2 * value[1])  # energies again, dQ, dK; dV, dA


_attend = define(
    "criss_cross(Tensor query, Tensor key, Tensor value, Tensor gamma) -> (Tensor, Tensor)",
    _kernel,
    _fake,
    Rules(
        lambda inputs, outputs: (*inputs, outputs[1]),
        _backward,
        lambda kept, *tangents: _tangent(kept[:4], *tangents),
    ),
    _flops,
    batched=False,
)
_attend_backward = define(
    "criss_cross_backward(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor gamma,"
    " Tensor log_sum) -> (Tensor, Tensor, Tensor, Tensor)",
    _backward_kernel,
    _fake_gradients,
    Rules(lambda *_: (), _not_differentiable, _not_differentiable),
    _backward_flops,
    batched=False,
)
