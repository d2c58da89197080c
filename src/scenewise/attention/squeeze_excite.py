"""Squeeze and excite: a gate for each channel, from the global average.

Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018.
"""

from torch import Tensor, nn

from scenewise.attention.layers import check_batch


class SqueezeExcite(nn.Module):
    r"""Scale each channel by a gate between 0 and 1.

    .. math:: y = s \odot x, \quad s = \sigma(W_2 \max(0, W_1 \operatorname{mean}_{hw}(x)))

    W1 and W2 are 1x1 convolutions with bias, to C / ``reduction`` channels and back; no norm, as in
    the authors' code (some ports round the inner channels to a multiple of 8). In a ResNet the
    block is on the residual branch, before the addition. It does not start as the identity.

    Args:
        channels: C, channels of the input and the output.
        reduction: C divided by the inner channels; at least one inner channel remains.

    >>> import torch
    >>> block = SqueezeExcite(32)
    >>> x = torch.randn(2, 32, 5, 7)
    >>> torch.equal(block(x), block.gates(x)[:, :, None, None] * x)
    True
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        inner = max(1, channels // reduction)
        self.squeeze = nn.Conv2d(channels, inner, 1)
        self.excite = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.gates(x)[:, :, None, None] * x

    def gates(self, x: Tensor) -> Tensor:
        """The gate of each channel, between 0 and 1: (B, C)."""
        check_batch(x)
        mean = x.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        gates: Tensor = self.excite(self.squeeze(mean).relu()).sigmoid().flatten(1)
        return gates
