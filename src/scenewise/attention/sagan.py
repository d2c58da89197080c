"""SAGAN's self-attention: the layer that position attention is based on.

Zhang et al., "Self-Attention Generative Adversarial Networks", ICML 2019.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d
from torch.nn.utils.parametrizations import spectral_norm as normalised

from scenewise.attention.layers import check_batch, reduced
from scenewise.attention.position import (
    attention_map,
    feature_map,
    pixel,
    pixels,
    position_attention,
)


class SAGANAttention(nn.Module):
    r"""Self-attention with spectrally normalised convolutions.

    .. math:: y = \gamma \, \operatorname{softmax}(Q K^\top) V + x

    Q, K (the paper's g and f) and V (h) are 1x1 convolutions with bias; there is no 1/sqrt(d). The
    scalar gamma starts at 0, so the block starts as the identity. Two variants are published:

    - in the paper, Q and K have C / ``reduction`` channels, V has C;
    - in the authors' networks (``pooled``), K and V are max-pooled 2x2, V has C / 2 channels and
      a last 1x1 convolution restores C.

    A popular PyTorch port omits the spectral norm: ``spectral_norm=False``.

    Args:
        channels: C, channels of the input and the output.
        reduction: C divided by the channels of query and key.
        pooled: the pooled variant; the feature map must be 2 x 2 or larger.
        spectral_norm: divide each weight by its largest singular value, estimated in training.

    >>> block = SAGANAttention(16, pooled=True)
    >>> x = torch.randn(2, 16, 6, 8)
    >>> torch.equal(block(x), x)
    True
    >>> block.weights(x, at=(5, 7)).shape
    torch.Size([2, 3, 4])
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 8,
        pooled: bool = False,
        spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        inner, values = reduced(channels, reduction), channels // 2 if pooled else channels

        def conv(inputs: int, outputs: int) -> nn.Module:
            layer = nn.Conv2d(inputs, outputs, 1)
            return normalised(layer) if spectral_norm else layer

        self.pooled = pooled
        self.query = conv(channels, inner)
        self.key = conv(channels, inner)
        self.value = conv(channels, values)
        self.out = conv(values, channels) if pooled else nn.Identity()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        check_batch(x)
        try:
            query, key, value = self.query(x), self.key(x), self.value(x)
        except RuntimeError as error:
            if "Batching rule" not in str(error):
                raise
            raise RuntimeError(
                "vmap over the weights of a spectral norm in training mode is not supported by "
                "PyTorch; call eval(), or build the block with spectral_norm=False"
            ) from error
        rows = position_attention(
            pixels(query), pixels(self._pool(key)), pixels(self._pool(value))
        )  # (B, N, C or C / 2)
        y: Tensor = self.gamma * self.out(feature_map(rows, x)) + x
        return y

    def weights(self, x: Tensor, at: tuple[int, int] | None = None) -> Tensor:
        """Attention weights of the pixel ``at`` = (row, column): (B, H, W), pooled (B, H/2, W/2).

        Only that row is computed. Without ``at``, the whole attention map, (B, Nq, Nk).
        """
        check_batch(x)
        queries = x if at is None else pixel(x, at)
        keys = self._pool(self.key(x))
        return attention_map(pixels(self.query(queries)), pixels(keys), keys, at)

    def _pool(self, x: Tensor) -> Tensor:
        return max_pool2d(x, 2) if self.pooled else x
