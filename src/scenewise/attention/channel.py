"""Channel attention: each channel aggregates all channels.

Fu et al., "Dual Attention Network for Scene Segmentation", CVPR 2019, section 3.3.
"""

from collections.abc import Mapping
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn

from scenewise.attention.kernels.precision import no_autocast, softmax, upcast
from scenewise.attention.layers import check_batch, check_choice, load_public

Similarity = Literal["reversed", "direct"]


def channel_attention(x: Tensor, *, similarity: Similarity = "reversed") -> Tensor:
    r"""Mix the channels of ``x`` by the softmax of their products.

    .. math:: o_c = \sum_{c'} \operatorname{softmax}_{c'}(\mp \, x_c \cdot x_{c'}) \, x_{c'}

    Args:
        x: (B, C, N).
        similarity: see :class:`ChannelAttention`.

    Returns:
        (B, C, N), of the dtype of ``x``.

    >>> channel_attention(torch.randn(2, 3, 35)).shape
    torch.Size([2, 3, 35])
    """
    weights = _channel_weights(x, similarity=similarity)
    return weights.to(x.dtype) @ x  # (B, C, N)


def _channel_weights(x: Tensor, *, similarity: Similarity = "reversed") -> Tensor:
    """Attention weights between the channels of ``x`` (B, C, N): (B, C, C), rows sum to 1.

    Energies are sums of N products, so they are float32 for half-precision inputs.
    """
    with no_autocast(x):
        wide = upcast(x)
        energy = wide @ wide.transpose(1, 2)  # (B, C, C)
        return softmax(-energy if similarity == "reversed" else energy)


class ChannelAttention(nn.Module):
    r"""DANet's channel attention module (CAM); no convolution.

    .. math:: y = \gamma \, \operatorname{softmax}(\mp X X^\top) X + x

    The paper prints softmax(+XX^T). The authors' code computes softmax(rowmax - XX^T), which is
    softmax(-XX^T): a channel gathers most from the channels *least* similar to it, which kept their
    training from diverging. Published weights need this formula, so it is the default. The scalar
    gamma starts at 0, so the block starts as the identity.

    Args:
        channels: unused; accepted so that all blocks are built alike.
        similarity: ``"reversed"``, the released code, or ``"direct"``, the printed formula.

    Raises:
        ValueError: unknown similarity.

    >>> block = ChannelAttention()
    >>> x = torch.randn(2, 16, 5, 7)
    >>> torch.equal(block(x), x)
    True
    >>> block.weights(x).shape
    torch.Size([2, 16, 16])
    """

    def __init__(self, channels: int | None = None, similarity: Similarity = "reversed") -> None:
        super().__init__()
        check_choice("similarity", similarity, get_args(Similarity))
        self.similarity: Similarity = similarity
        self.gamma = nn.Parameter(torch.zeros(1))

    @classmethod
    def from_public(cls, state: Mapping[str, Tensor]) -> Self:
        """The block with the trained gamma of the authors' module (``CAM_Module``).

        Args:
            state: its ``state_dict()``, ``gamma`` alone.

        Raises:
            ValueError: gamma is missing or of another shape, or there are other tensors.
        """
        return load_public(cls(), state)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        check_batch(x)
        mixed = channel_attention(x.flatten(2), similarity=self.similarity)  # (B, C, N)
        return self.gamma * mixed.reshape(x.shape) + x

    def weights(self, x: Tensor) -> Tensor:
        """Attention weights of each channel over all channels: (B, C, C), rows sum to 1."""
        check_batch(x)
        return _channel_weights(x.flatten(2), similarity=self.similarity)
