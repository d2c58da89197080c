"""CBAM: a gate for each channel ("what"), then a gate for each pixel ("where").

Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from scenewise.attention.layers import check_batch, check_choice

Variant = Literal["official", "paper"]


class CBAM(nn.Module):
    r"""Channel gate, then spatial gate.

    .. math:: x' = \sigma(M(\operatorname{mean}_{hw} x) + M(\max_{hw} x)) \odot x, \quad
              y = \sigma(f(\max_c x', \operatorname{mean}_c x')) \odot x'

    M is one shared perceptron, C to C / ``reduction`` to C with bias and a ReLU between. f is a
    convolution of the two feature maps without bias. The authors' code differs from their paper:

    - ``"official"``: maximum first, then mean; batch norm after the convolution, with momentum
      0.01 and scale 0 at the start, so that all pixels start with gate 1/2.
    - ``"paper"``: mean first, then maximum; the convolution alone.

    In a ResNet the block follows the last norm of the residual branch. It does not start as the
    identity.

    Args:
        channels: C, channels of the input and the output.
        reduction: C divided by the inner channels; at least one inner channel remains.
        kernel_size: kernel size of the spatial convolution, odd.
        variant: ``"official"`` or ``"paper"``.

    Raises:
        ValueError: even kernel size, or unknown variant.

    >>> block = CBAM(32)
    >>> channel, spatial = block.gates(torch.randn(2, 32, 5, 7))
    >>> channel.shape, spatial.shape, spatial.mean().item()
    (torch.Size([2, 32]), torch.Size([2, 5, 7]), 0.5)
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        kernel_size: int = 7,
        variant: Variant = "official",
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        check_choice("variant", variant, get_args(Variant))
        inner = max(1, channels // reduction)
        self.variant = variant
        self.channel = nn.Sequential(
            nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels)
        )
        self.spatial = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = nn.BatchNorm2d(1, momentum=0.01) if variant == "official" else nn.Identity()
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.channel.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
        nn.init.kaiming_normal_(self.spatial.weight, mode="fan_out")
        if isinstance(self.norm, nn.BatchNorm2d):
            nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = self._channel_gate(x)[:, :, None, None] * x  # (B, C, 1, 1) * (B, C, H, W)
        return self._spatial_gate(x) * x  # (B, 1, H, W) * (B, C, H, W)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gate of each channel (B, C) and of each pixel (B, H, W), between 0 and 1."""
        channel = self._channel_gate(x)
        return channel, self._spatial_gate(channel[:, :, None, None] * x)[:, 0]

    def _channel_gate(self, x: Tensor) -> Tensor:
        check_batch(x)
        gate: Tensor = self.channel(x.mean((2, 3))) + self.channel(x.amax((2, 3)))  # (B, C)
        return gate.sigmoid()

    def _spatial_gate(self, x: Tensor) -> Tensor:
        mean, most = x.mean(1, keepdim=True), x.amax(1, keepdim=True)
        both = (most, mean) if self.variant == "official" else (mean, most)
        gate: Tensor = self.norm(self.spatial(torch.cat(both, dim=1)))  # (B, 2 -> 1, H, W)
        return gate.sigmoid()
