"""Position attention: each pixel aggregates all pixels, weighted by their similarity to it.

Fu et al., "Dual Attention Network for Scene Segmentation", CVPR 2019, section 3.2.
"""

import torch
from torch import Tensor, nn

from scenewise.attention.kernels import autotune, tiled
from scenewise.attention.kernels.precision import no_autocast, upcast
from scenewise.attention.kernels.tiled import BackwardInputs
from scenewise.attention.layers import reduced


def position_attention(query: Tensor, key: Tensor, value: Tensor, *, scale: float = 1.0) -> Tensor:
    r"""Exact softmax attention in linear memory.

    .. math:: o_i = \sum_j \operatorname{softmax}_j(s \, q_i \cdot k_j) \, v_j

    The attention map is computed in tiles, forward and backward; the backward pass recomputes each
    tile from the saved row log-sum-exp. Only one tile is in memory at any time, so memory grows
    with Nq + Nk, not with Nq * Nk. Sums over tiles follow Milakov and Gimelshein, "Online
    normalizer calculation for softmax", 2018. ``kernels.tiled`` has the arithmetic; on CUDA GPUs
    ``kernels.autotune`` also tries other kernels. Energies, softmax and sums are float32 for
    half-precision inputs, also under autocast. Gradients are exact; second derivatives are not
    provided.

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

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        rows = position_attention(
            pixels(self.query(x)), pixels(self.key(x)), pixels(self.value(x))
        )  # (B, N, C)
        return self.gamma * rows.transpose(1, 2).reshape(x.shape) + x  # (B, C, H, W)

    def weights(self, x: Tensor, at: tuple[int, int] | None = None) -> Tensor:
        """Attention weights of the pixel ``at`` = (row, column) over all pixels: (B, H, W).

        Only that row is computed. Without ``at``, the whole attention map, (B, N, N), is returned.
        """
        queries = x if at is None else pixel(x, at)
        return attention_map(pixels(self.query(queries)), pixels(self.key(x)), x, at)


def pixels(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, N, C), pixels in row-major order; a view, no copy."""
    return x.flatten(2).transpose(1, 2)


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


@torch.library.custom_op("scenewise::position_attention", mutates_args=())
def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Output (B, Nq, C) and row log-sum-exp (B, Nq)."""
    attend = autotune.attend if query.is_cuda else tiled.attend
    return attend(query, key, value, scale)


@_attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    out = value.new_empty(*query.shape[:2], value.shape[2])
    return out, upcast(query.new_empty(query.shape[:2]))


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
    """Gradients of query, key and value; operators take flat arguments, no named tuples."""
    inputs = BackwardInputs(grad, query, key, value, out, log_sum, scale)
    return autotune.attend_backward(inputs) if query.is_cuda else tiled.attend_backward(inputs)


@_attend_backward.register_fake
def _(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: object
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
