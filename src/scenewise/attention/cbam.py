"""CBAM: a gate for each channel ("what"), then a gate for each pixel ("where").

Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018.
"""

from typing import Literal

import torch
from torch import Tensor, nn

Variant = Literal["official", "paper"]


class CBAM(nn.Module):
    r"""Channel gate and spatial gate, in series.

    .. math:: x' = \sigma(M(\operatorname{mean}_{hw} x) + M(\max_{hw} x)) \odot x, \quad
              y = \sigma(f(\max_c x', \operatorname{mean}_c x')) \odot x'

    M is one shared perceptron, C to C / ``reduction`` to C with bias and a ReLU between. f is a
    convolution of the two maps without bias. The authors' code differs from their paper:

    - ``"official"``: maximum first, then mean; batch norm behind the convolution, with momentum
      0.01 and scale 0 at the start, so that all pixels begin with gate 1/2.
    - ``"paper"``: mean first, then maximum; the convolution alone.

    In a ResNet the block stands behind the last norm of the residual branch. It does not start as
    the identity.

    Args:
        channels: C, channels of the input and the output.
        reduction: C divided by the inner channels; at least one inner channel stays.
        kernel_size: of the spatial convolution, odd.
        variant: ``"official"`` or ``"paper"``.

    Raises:
        ValueError: an even kernel, or another variant.

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
            raise ValueError(f"kernel_size is odd, not {kernel_size}")
        if variant not in ("official", "paper"):
            raise ValueError(f"variant is 'official' or 'paper', not '{variant}'")
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
        x = self._channel_gate(x)[:, :, None, None] * x
        return self._spatial_gate(x) * x

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gate of each channel (B, C) and of each pixel (B, H, W), between 0 and 1."""
        channel = self._channel_gate(x)
        return channel, self._spatial_gate(channel[:, :, None, None] * x)[:, 0]

    def _channel_gate(self, x: Tensor) -> Tensor:
        gate: Tensor = self.channel(x.mean((2, 3))) + self.channel(x.amax((2, 3)))
        return gate.sigmoid()

    def _spatial_gate(self, x: Tensor) -> Tensor:
        mean, most = x.mean(1, keepdim=True), x.amax(1, keepdim=True)
        maps = (most, mean) if self.variant == "official" else (mean, most)
        gate: Tensor = self.norm(self.spatial(torch.cat(maps, dim=1)))
        return gate.sigmoid()
