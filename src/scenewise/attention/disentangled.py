"""Disentangled non-local: a pairwise term and a unary term, each with its own softmax.

Yin et al., "Disentangled Non-Local Neural Networks", ECCV 2020.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from scenewise.attention.kernels.precision import no_autocast, upcast
from scenewise.attention.layers import check_batch, check_choice
from scenewise.attention.position import (
    attention_map,
    feature_map,
    pixel,
    pixels,
    position_attention,
)

Variant = Literal["official", "mmseg"]


class DisentangledNonLocal(nn.Module):
    r"""Sum of a whitened pairwise term and a unary term, each with its own softmax.

    .. math:: y = x + W \Bigl( \gamma \operatorname{softmax}
              \bigl(\tfrac{(Q - \mu_Q)(K - \mu_K)^\top}{\tau \sqrt d}\bigr) V
              + \operatorname{softmax}(m(x))^\top V \Bigr)

    The means are over the positions. W is a 1x1 convolution without bias, then batch norm. The
    paper prints the plain sum of both terms, without gamma; two implementations differ:

    - ``"official"``: a scalar gamma on the pairwise term, 0 at the start; all convolutions start
      with standard deviation 0.01. So a new block adds the unary term alone.
    - ``"mmseg"``: no gamma; the norm starts with scale 0, so the block starts as the identity. (Its
      very first version applied W to each term separately; its releases do not.)

    Args:
        channels: C, channels of the input and the output.
        reduction: C divided by d, the channels of query, key and value.
        temperature: tau; smaller is sharper.
        variant: ``"official"`` or ``"mmseg"``.

    Raises:
        ValueError: unknown variant.

    >>> block = DisentangledNonLocal(16, variant="mmseg")
    >>> x = torch.randn(2, 16, 5, 7)
    >>> torch.equal(block(x), x)
    True
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 2,
        temperature: float = 0.05,
        variant: Variant = "official",
    ) -> None:
        super().__init__()
        check_choice("variant", variant, get_args(Variant))
        inner = max(1, channels // reduction)
        self.scale = inner**-0.5 / temperature
        self.query = nn.Conv2d(channels, inner, 1)
        self.key = nn.Conv2d(channels, inner, 1)
        self.value = nn.Conv2d(channels, inner, 1)
        self.mask = nn.Conv2d(channels, 1, 1)
        self.out = nn.Conv2d(inner, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.gamma = nn.Parameter(torch.zeros(1)) if variant == "official" else None
        for layer in (self.query, self.key, self.value, self.mask, self.out):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        if variant == "mmseg":
            nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        check_batch(x)
        value = pixels(self.value(x))
        query, key = pixels(_centred(self.query(x))), pixels(_centred(self.key(x)))  # (B, N, d)
        rows = position_attention(query, key, value, scale=self.scale)
        pairwise = feature_map(rows, x)  # (B, d, H, W)
        shares = self.unary_weights(x).flatten(1)[:, None].to(value.dtype)  # (B, 1, N)
        unary = (shares @ value).transpose(1, 2)[..., None]  # (B, d, 1, 1)
        scaled = pairwise if self.gamma is None else self.gamma * pairwise
        y: Tensor = self.norm(self.out(scaled + unary))
        return y + x

    def weights(self, x: Tensor, at: tuple[int, int] | None = None) -> Tensor:
        """Attention weights of the pixel ``at`` in the pairwise term: (B, H, W), sum 1.

        Only that row is computed. Without ``at``, the whole attention map, (B, N, N).
        """
        check_batch(x)
        query = _centred(self.query(x))
        query = query if at is None else pixel(query, at)
        key = pixels(_centred(self.key(x)))
        return attention_map(pixels(query), key, x, at, self.scale)

    def unary_weights(self, x: Tensor) -> Tensor:
        """Attention weights of the unary term, the same for every pixel: (B, H, W), sum 1."""
        check_batch(x)
        energy = self.mask(x)
        with no_autocast(x):
            return torch.softmax(upcast(energy).flatten(1), dim=1).reshape(-1, *x.shape[2:])


def _centred(x: Tensor) -> Tensor:
    """``x`` minus its mean over the positions, in float32 or wider."""
    with no_autocast(x):
        wide = upcast(x)
        return wide - wide.mean((2, 3), keepdim=True)
