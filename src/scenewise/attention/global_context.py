"""Global context: one weighted mean of all pixels, transformed and added to each of them.

Cao et al., "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", ICCVW 2019.
"""

import torch
from torch import Tensor, nn

from scenewise.attention.kernels.precision import no_autocast, upcast
from scenewise.attention.layers import check_batch, reduced
from scenewise.attention.position import pixels


class GlobalContext(nn.Module):
    r"""Non-local attention with the same weights for every pixel, then a bottleneck.

    .. math:: y_i = x_i + W_2 \operatorname{relu}(\operatorname{LN}(W_1 c)), \quad
              c = \sum_j \operatorname{softmax}_j(w \cdot x_j + b) \, x_j

    W1 and W2 are 1x1 convolutions with bias to C / ``reduction`` channels and back. W2 starts at 0,
    so the block starts as the identity. The paper reduces by 16 inside a ResNet, the
    published segmentation head by 4, which is the default here.

    Args:
        channels: C, channels of the input and the output.
        reduction: C divided by the inner channels.

    >>> block = GlobalContext(16)
    >>> x = torch.randn(2, 16, 5, 7)
    >>> torch.equal(block(x), x)
    True
    >>> block.weights(x).shape
    torch.Size([2, 5, 7])
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        inner = reduced(channels, reduction)
        self.mask = nn.Conv2d(channels, 1, 1)
        self.squeeze = nn.Conv2d(channels, inner, 1)
        self.norm = nn.LayerNorm([inner, 1, 1])
        self.excite = nn.Conv2d(inner, channels, 1)
        nn.init.kaiming_normal_(self.mask.weight, mode="fan_in")
        for parameter in self.excite.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        shares = self.weights(x).flatten(1)[:, None].to(x.dtype)  # (B, 1, N)
        context = (shares @ pixels(x)).transpose(1, 2)[..., None]  # (B, C, 1, 1)
        y: Tensor = x + self.excite(self.norm(self.squeeze(context)).relu())
        return y

    def weights(self, x: Tensor, at: tuple[int, int] | None = None) -> Tensor:
        """Attention weights of every pixel: (B, H, W), sum 1. They do not depend on ``at``."""
        check_batch(x)
        energy = self.mask(x)
        with no_autocast(x):
            return torch.softmax(upcast(energy).flatten(1), dim=1).reshape(-1, *x.shape[2:])
