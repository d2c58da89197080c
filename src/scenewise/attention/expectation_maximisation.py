"""Expectation-maximisation attention: pixels reconstructed from bases fitted to the image.

Li et al., "Expectation-Maximization Attention Networks for Semantic Segmentation", ICCV 2019.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from scenewise.attention.kernels.precision import no_autocast, upcast
from scenewise.attention.layers import check_batch
from scenewise.attention.position import feature_map, pixel, pixels


def expectation_maximisation(x: Tensor, bases: Tensor, stages: int = 3) -> tuple[Tensor, Tensor]:
    r"""Fit bases to the pixels by a few iterations of soft clustering.

    .. math:: z_{nk} = \operatorname{softmax}_k(x_n \cdot \mu_k), \quad
              \mu_k \leftarrow \frac{\sum_n z_{nk} x_n}{\|\sum_n z_{nk} x_n\|}

    Args:
        x: (B, N, C).
        bases: mu, (K, C), of unit length.
        stages: iterations, at least 1.

    Returns:
        The assignments z (B, N, K) of the last iteration, and the bases (B, K, C) they give.

    >>> shares, bases = expectation_maximisation(torch.randn(1, 35, 4), torch.eye(4)[:3])
    >>> shares.shape, bases.shape
    (torch.Size([1, 35, 3]), torch.Size([1, 3, 4]))
    """
    fitted = bases.expand(x.shape[0], *bases.shape)
    for _ in range(stages):
        shares = (x @ fitted.transpose(1, 2)).softmax(-1)  # (B, N, K)
        fitted = normalize(shares.transpose(1, 2) @ x, dim=-1)  # (B, K, C)
    return shares, fitted


class ExpectationMaximisation(nn.Module):
    r"""EMA unit: fits bases to the image and adds the pixels reconstructed from them.

    .. math:: y = \operatorname{relu}(x + W_2 \operatorname{relu}(Z \mu)), \quad
              Z, \mu = \operatorname{EM}(W_1 x)

    W1 is a 1x1 convolution with bias, W2 one without, then batch norm. Memory is O(N K). As in the
    authors' code, no gradient flows through the iterations: Z and mu are constants, so W1 keeps its
    initial weights and is frozen here. In training, ``forward`` moves the stored bases towards the
    mean of the batch; under data parallelism all processes use those of the first.

    Args:
        channels: C, channels of the input and the output.
        bases: K, the number of bases.
        stages: iterations of clustering.
        momentum: weight of the batch in the stored bases; 0.1 in the authors' settings.

    >>> block = ExpectationMaximisation(16, bases=4)
    >>> block(torch.randn(2, 16, 5, 7)).shape
    torch.Size([2, 16, 5, 7])
    """

    bases: Tensor

    def __init__(
        self, channels: int, bases: int = 64, stages: int = 3, momentum: float = 0.1
    ) -> None:
        super().__init__()
        if stages < 1:
            raise ValueError(f"stages must be at least 1, got {stages}")
        self.stages, self.momentum = stages, momentum
        self.first = nn.Conv2d(channels, channels, 1).requires_grad_(False)
        self.last = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        for conv in (self.first, self.last):
            nn.init.normal_(conv.weight, std=(2 / channels) ** 0.5)
        self.register_buffer("bases", normalize(torch.randn(bases, channels), dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), non-negative."""
        with torch.no_grad():
            shares, fitted = (y.detach() for y in self._fit(x))  # constants in forward mode too
            if self.training and x.shape[0]:  # the mean of no samples is not defined
                average = self.bases.lerp(fitted.mean(0).to(self.bases.dtype), self.momentum)
                self.bases.copy_(normalize(average, dim=-1))
            with no_autocast(x):
                rebuilt = feature_map(shares @ fitted, x)  # (B, C, H, W)
        y: Tensor = self.norm(self.last(rebuilt.relu().to(x.dtype)))
        return (y + x).relu()

    def weights(self, x: Tensor, at: tuple[int, int] | None = None) -> Tensor:
        """Weights that reconstruct the pixel ``at``, through the bases: (B, H, W), sum 1.

        A basis is a weighted mean of pixels, up to its norm. Without ``at``, all rows: (B, N, N).
        """
        shares, _ = self._fit(x)
        of_bases = (shares / shares.sum(1, keepdim=True)).transpose(1, 2)  # (B, K, N)
        if at is None:
            return shares @ of_bases  # (B, N, N)
        pixel(x, at)  # checks
        row = shares[:, at[0] * x.shape[3] + at[1], None]  # (B, 1, K)
        return (row @ of_bases).reshape(-1, *x.shape[2:])  # (B, H, W)

    def _fit(self, x: Tensor) -> tuple[Tensor, Tensor]:
        check_batch(x)
        inner = self.first(x)
        with no_autocast(x):
            wide = upcast(pixels(inner))
            return expectation_maximisation(wide, self.bases.to(wide.dtype), self.stages)
