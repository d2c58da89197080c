"""Object-contextual representations: each pixel attends to the regions of the classes.

Yuan, Chen & Wang, "Object-Contextual Representations for Semantic Segmentation", ECCV 2020.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from scenewise.attention.kernels.precision import no_autocast, upcast
from scenewise.attention.layers import check_batch, check_choice, conv_norm
from scenewise.attention.position import (
    attention_map,
    feature_map,
    pixel,
    pixels,
    position_attention,
)

Variant = Literal["openseg", "mmseg"]


def region_features(x: Tensor, region_logits: Tensor) -> Tensor:
    r"""One feature for each class: the mean of the pixels, weighted by the class's soft region.

    .. math:: f_k = \sum_i \operatorname{softmax}_i(l_{ki}) \, x_i

    Args:
        x: (B, C, H, W).
        region_logits: l, (B, K, H, W).

    Returns:
        (B, K, C), of the dtype of ``x``.

    >>> region_features(torch.randn(2, 16, 5, 7), torch.randn(2, 3, 5, 7)).shape
    torch.Size([2, 3, 16])
    """
    return _soft_regions(region_logits).to(x.dtype) @ pixels(x)  # (B, K, N) x (B, N, C)


def _soft_regions(region_logits: Tensor) -> Tensor:
    """The soft region of each class: (B, K, H, W) -> (B, K, N), rows sum to 1 over the pixels."""
    with no_autocast(region_logits):
        return upcast(region_logits).flatten(2).softmax(-1)


class ObjectContextual(nn.Module):
    r"""OCR: attention from pixels to class regions; takes features and coarse class logits.

    .. math:: y = \operatorname{conv}([W \operatorname{softmax}(d^{-1/2} Q(x) K(f)^\top) V(f), x])

    f are the :func:`region_features` of the auxiliary logits. Q and K are two 1x1 convolutions with
    norm and activation, V and W one. ``"openseg"``, the authors' code: convolutions with bias,
    leaky ReLU 0.01 (their published weights use it), dropout of whole channels. ``"mmseg"``: no
    bias, ReLU, no dropout.

    Args:
        channels: C of the features, input and output.
        key_channels: d, of queries, keys and values; default C / 2.
        dropout: probability, in ``"openseg"``.
        variant: ``"openseg"`` or ``"mmseg"``.
        mix: False returns the context alone, before its concatenation with x, as ASP-OCR takes it.

    Raises:
        ValueError: unknown variant.

    >>> block = ObjectContextual(16)
    >>> block(torch.randn(2, 16, 5, 7), torch.randn(2, 3, 5, 7)).shape
    torch.Size([2, 16, 5, 7])
    """

    def __init__(
        self,
        channels: int,
        key_channels: int | None = None,
        dropout: float = 0.05,
        variant: Variant = "openseg",
        mix: bool = True,
    ) -> None:
        super().__init__()
        check_choice("variant", variant, get_args(Variant))
        inner = key_channels or channels // 2
        openseg = variant == "openseg"

        def project(inputs: int, outputs: int) -> nn.Sequential:
            return conv_norm(inputs, outputs, bias=openseg, slope=0.01 if openseg else 0.0)

        self.scale = inner**-0.5
        self.query = nn.Sequential(project(channels, inner), project(inner, inner))
        self.key = nn.Sequential(project(channels, inner), project(inner, inner))
        self.value = project(channels, inner)
        self.out = project(inner, channels)
        self.mix = project(2 * channels, channels) if mix else None
        self.dropout = nn.Dropout2d(dropout) if openseg and mix else nn.Identity()

    def forward(self, x: Tensor, region_logits: Tensor) -> Tensor:
        """(B, C, H, W) and logits (B, K, H, W) -> (B, C, H, W)."""
        regions = self._regions(x, region_logits)  # (B, C, K, 1)
        rows = position_attention(
            pixels(self.query(x)),
            pixels(self.key(regions)),
            pixels(self.value(regions)),
            scale=self.scale,
        )  # (B, N, d)
        context: Tensor = self.out(feature_map(rows, x))
        if self.mix is None:
            return context
        y: Tensor = self.dropout(self.mix(torch.cat([context, x], dim=1)))
        return y

    def region_weights(
        self, x: Tensor, region_logits: Tensor, at: tuple[int, int] | None = None
    ) -> Tensor:
        """Weights of the pixel ``at`` over the regions: (B, K); of all pixels: (B, N, K)."""
        regions = self._regions(x, region_logits)
        query = pixels(self.query(x if at is None else pixel(x, at)))
        rows = attention_map(query, pixels(self.key(regions)), x, None, self.scale)
        return rows if at is None else rows[:, 0]

    def weights(
        self, x: Tensor, region_logits: Tensor, at: tuple[int, int] | None = None
    ) -> Tensor:
        """Attention weights through the regions to pixels: (B, H, W); without ``at`` (B, N, N)."""
        shares = self.region_weights(x, region_logits, at)
        regions = _soft_regions(region_logits)
        if at is None:
            return shares @ regions
        return (shares[:, None] @ regions).reshape(-1, *x.shape[2:])  # (B, H, W)

    def _regions(self, x: Tensor, region_logits: Tensor) -> Tensor:
        """(B, C, K, 1), for the 1x1 convolutions."""
        check_batch(x, region_logits)
        if region_logits.shape[2:] != x.shape[2:]:
            raise ValueError(
                f"features are {tuple(x.shape[2:])}, class logits {tuple(region_logits.shape[2:])}"
            )
        return region_features(x, region_logits).transpose(1, 2)[..., None]
