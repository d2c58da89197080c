"""The non-local block: each position of a sequence, an image or a clip attends to all positions.

Wang et al., "Non-local Neural Networks", CVPR 2018.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from scenewise.attention.kernels.precision import no_autocast, upcast
from scenewise.attention.layers import check_batch, check_choice
from scenewise.attention.position import feature_map, pixels, position_attention

Kind = Literal["embedded_gaussian", "gaussian", "dot_product", "concatenation"]
Variant = Literal["fair", "mmcv"]

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_AXES = {1: "B, C, T", 2: "B, C, H, W", 3: "B, C, T, H, W"}
_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def dot_product_mix(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    r"""Average of the values, weighted by plain products without softmax.

    .. math:: o_i = \frac{1}{N_k} \sum_j (q_i \cdot k_j) \, v_j = q_i^\top \frac{K^\top V}{N_k}

    The right-hand side is computed, in time and memory linear in Nq and Nk.

    Args:
        query: (B, Nq, D).
        key: (B, Nk, D).
        value: (B, Nk, C).

    Returns:
        (B, Nq, C).

    >>> q, k, v = torch.randn(1, 5, 2), torch.randn(1, 7, 2), torch.randn(1, 7, 3)
    >>> dense = q @ k.transpose(1, 2) / 7 @ v
    >>> torch.allclose(dot_product_mix(q, k, v), dense, atol=1e-6)
    True
    """
    return query @ ((key / key.shape[1]).transpose(1, 2) @ value)  # (B, Nq, D) x (B, D, C)


def rectified_sum_mix(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    r"""Average of the values, weighted by the rectified sum of two scalars.

    .. math:: o_i = \frac{1}{N_k} \sum_j \max(0, a_i + b_j) \, v_j

    With the keys sorted in descending order, the positive terms of each i come first. Their sum is
    a_i V_i + U_i, where V and U are cumulative sums of v_j and of b_j v_j. So time is
    O(N log N + N C) and memory O(N C), without an N x N map. Sums are float32 for half-precision
    inputs.

    Args:
        query: a, (B, Nq).
        key: b, (B, Nk).
        value: v, (B, Nk, C).

    Returns:
        (B, Nq, C), of the dtype of ``value``.

    >>> a, b, v = torch.tensor([[-1.0, 2.0]]), torch.tensor([[0.0, 3.0]]), torch.ones(1, 2, 1)
    >>> rectified_sum_mix(a, b, v)  # (0 + 2) / 2 and (2 + 5) / 2
    tensor([[[1.0000],
             [3.5000]]])
    """
    with no_autocast(value):
        a, v = upcast(query), upcast(value)
        b, order = upcast(key).sort(dim=1, descending=True)
        v = v.gather(1, order[..., None].expand_as(v)) / v.shape[1]  # (B, Nk, C) in that order
        sums = torch.cat([v, b[..., None] * v], dim=-1).cumsum(1)  # (B, Nk, 2 C)
        positive = _count_above(b, -a)  # (B, Nq): a + b > 0 where b > -a
        sums = nn.functional.pad(sums, (0, 0, 1, 0))  # entry n is the sum of the first n terms
        sums = sums.gather(1, positive[..., None].expand(-1, -1, sums.shape[2]))  # (B, Nq, 2 C)
        plain, scaled = sums.chunk(2, dim=-1)
        return (a[..., None] * plain + scaled).to(value.dtype)


def _count_above(numbers: Tensor, limits: Tensor) -> Tensor:
    """How many ``numbers`` (B, M) are greater than each of the ``limits`` (B, L): (B, L).

    One sort of both together, since ONNX has no torch.searchsorted.
    """
    order = torch.cat([numbers, limits], dim=1).argsort(dim=1, descending=True)
    seen = (order < numbers.shape[1]).long().cumsum(1)  # numbers up to each sorted entry
    return torch.zeros_like(seen).scatter(1, order, seen)[:, numbers.shape[1] :]


class NonLocal(nn.Module):
    r"""The residual non-local block, for (B, C, T), (B, C, H, W) or (B, C, T, H, W).

    .. math:: z = W_z \, y + x, \quad
              y_i = \frac{1}{\mathcal{C}(x)} \sum_j f(x_i, x_j) \, g(x_j)

    ===================== ========================================== ==============
    kind                  f                                          normaliser
    ===================== ========================================== ==============
    ``embedded_gaussian`` exp(theta_i . phi_j), with 1/sqrt(d) first softmax over j
    ``gaussian``          exp(x_i . x_j)                             softmax over j
    ``dot_product``       theta_i . phi_j                            1 / N
    ``concatenation``     relu(w . [theta_i, phi_j])                 1 / N
    ===================== ========================================== ==============

    No kind allocates an N x N map. The batch norm after W_z starts with scale 0, so the block
    starts as the identity. Two published variants differ:

    - ``"fair"``, the authors' video code: ``subsample`` pools x first, for phi and g alike; W_z has
      a bias before its norm.
    - ``"mmcv"``: phi and g are pooled after their convolutions; W_z has no bias.

    The paper has no 1/sqrt(d); both implementations use it by default (``use_scale``).

    Args:
        channels: C, channels of the input and the output.
        dims: number of axes of space(-time): 1, 2 or 3.
        kind: the pairwise function f.
        reduction: C divided by the channels of theta, phi and g.
        subsample: max-pool keys and values by 2 along the last two axes (one if ``dims`` is 1).
        use_scale: divide the energies of ``embedded_gaussian`` by sqrt(d).
        variant: ``"fair"`` or ``"mmcv"``.

    Raises:
        ValueError: unknown kind, number of axes or variant.

    >>> clip = torch.randn(2, 8, 4, 5, 7)
    >>> block = NonLocal(8, dims=3, subsample=True)
    >>> torch.equal(block(clip), clip)
    True
    """

    def __init__(
        self,
        channels: int,
        dims: int = 2,
        kind: Kind = "embedded_gaussian",
        reduction: int = 2,
        subsample: bool = False,
        use_scale: bool = True,
        variant: Variant = "fair",
    ) -> None:
        super().__init__()
        if dims not in _CONV:
            raise ValueError(f"dims must be 1, 2 or 3, got {dims}")
        check_choice("kind", kind, get_args(Kind))
        check_choice("variant", variant, get_args(Variant))
        inner = max(1, channels // reduction)
        conv, embedded = _CONV[dims], kind != "gaussian"
        self.kind, self.variant, self.axes = kind, variant, _AXES[dims]
        self.scale = inner**-0.5 if use_scale and kind == "embedded_gaussian" else 1.0
        self.theta = conv(channels, inner, 1) if embedded else nn.Identity()
        self.phi = conv(channels, inner, 1) if embedded else nn.Identity()
        self.g = conv(channels, inner, 1)
        self.pair = nn.Linear(2 * inner, 1, bias=False) if kind == "concatenation" else None
        self.pool = _pool(dims) if subsample else nn.Identity()
        self.out = conv(inner, channels, 1, bias=variant == "fair")
        self.norm = _NORM[dims](channels)
        self._initialise()

    def _initialise(self) -> None:
        for layer in (self.theta, self.phi, self.g, self.out):
            for name, value in layer.named_parameters():
                if name == "weight":
                    nn.init.normal_(value, std=0.01)
                else:
                    nn.init.zeros_(value)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...)."""
        check_batch(x, axes=self.axes)
        query, key, value = map(pixels, (self.theta(x), *self._sources(x)))  # (B, N, inner)
        if self.kind == "dot_product":
            y = dot_product_mix(query, key, value)
        elif self.kind == "concatenation":
            y = rectified_sum_mix(*self._scalars(query, key), value)
        else:
            y = position_attention(query, key, value, scale=self.scale)
        z: Tensor = self.norm(self.out(feature_map(y, x)))
        return z + x

    def weights(self, x: Tensor, at: tuple[int, ...] | None = None) -> Tensor:
        """f over its normaliser, for the position ``at``: (B, H, W), or (B, T, H, W) and so on.

        With ``subsample``, the result has the size of the pooled feature map, as the keys have.
        Without ``at``, the whole map, (B, Nq, Nk). Rows sum to 1 for the two gaussian kinds.

        Raises:
            ValueError: ``at`` is outside the feature map.
        """
        check_batch(x, axes=self.axes)
        query = pixels(self.theta(x if at is None else _position(x, at)))
        keys = self._sources(x)[0]
        key = pixels(keys)  # (B, Nk, inner)
        with no_autocast(x):
            if self.kind == "concatenation":
                a, b = self._scalars(upcast(query), upcast(key))
                weights = (a[:, :, None] + b[:, None]).relu() / key.shape[1]  # (B, Nq, Nk)
            else:
                weights = upcast(query) @ upcast(key).transpose(1, 2) * self.scale
                dot = self.kind == "dot_product"
                weights = weights / key.shape[1] if dot else weights.softmax(-1)
        return weights if at is None else weights.reshape(x.shape[0], *keys.shape[2:])

    def _sources(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, (B, inner, ...) each."""
        if self.variant == "fair":
            x = self.pool(x)
            return self.phi(x), self.g(x)
        return self.pool(self.phi(x)), self.pool(self.g(x))

    def _scalars(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """The two halves of w . [theta_i, phi_j]: (B, Nq) and (B, Nk)."""
        assert self.pair is not None
        inner = query.shape[2]
        of_query, of_key = self.pair.weight[:, :inner], self.pair.weight[:, inner:]
        return (query @ of_query.T)[..., 0], (key @ of_key.T)[..., 0]


def _pool(dims: int) -> nn.Module:
    if dims == 3:
        return nn.MaxPool3d((1, 2, 2))
    return nn.MaxPool2d(2) if dims == 2 else nn.MaxPool1d(2)


def _position(x: Tensor, at: tuple[int, ...]) -> Tensor:
    """The one position ``at`` of (B, C, ...), with all axes kept."""
    size = tuple(x.shape[2:])
    if len(at) != len(size) or not all(0 <= i < n for i, n in zip(at, size, strict=True)):
        raise ValueError(f"position {at} is outside the feature map of size {size}")
    for axis, i in enumerate(at, start=2):
        x = x.narrow(axis, i, 1)
    return x
