"""Interaction-aware attention: learned attention maps, trained to imitate a PCA.

Du et al., "Interaction-aware Spatio-temporal Pyramid Attention Networks for Action
Classification", ECCV 2018, arXiv 1808.01106.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, normalize

from scenewise.attention.kernels.precision import no_autocast, upcast
from scenewise.attention.layers import check_batch
from scenewise.attention.position import pixel


def pca_loss(attention: Tensor, features: Tensor) -> Tensor:
    r"""Low if the attention maps keep much of the features' energy and are mutually orthogonal.

    .. math:: \frac{1}{M^2} \Bigl( \sum_{m \neq n} (A A^\top)_{mn}^2
              - \frac{\operatorname{tr}(A X X^\top A^\top)}{\|X\|^2} \Bigr)

    For orthonormal rows, the last term is the fraction of the energy that they keep, and the best M
    rows are the first M principal directions. The paper prints the two plain sums; there the energy
    is unbounded and the loss grows with the size of the feature map. Here features are scaled to
    unit energy, and the mean over pairs of rows and over the batch is taken.

    Args:
        attention: A, (B, M, P), rows of unit length.
        features: X, (B, P, C).

    Returns:
        A scalar, float32 or wider.

    >>> pca_loss(torch.eye(2)[None], torch.randn(1, 2, 8)).item()  # all of the energy, orthogonal
    -0.25
    """
    with no_autocast(attention):
        a, x = upcast(attention), upcast(features)
        energy = (a @ x).square().sum((1, 2)) / x.square().sum((1, 2)).clamp_min(1e-12)  # (B,)
        products = a @ a.transpose(1, 2)  # (B, M, M)
        lengths = products.diagonal(dim1=1, dim2=2)  # (B, M)
        overlap = products.square().sum((1, 2)) - lengths.square().sum(1)  # off the diagonal
        count = max(1, a.shape[0])  # 0 for an empty batch
        loss: Tensor = (overlap - energy).sum() / count / a.shape[1] ** 2
    return loss


def diversity_loss(attention: Tensor, scales: Sequence[Tensor]) -> Tensor:
    r"""Low if the attention maps of each scale differ from the fused ones.

    .. math:: \sqrt{\operatorname{mean}(1 - (A - S_j)^2) + \epsilon}

    S_j is the softmax of one scale. The paper prints a sum under the root; epsilon (1e-12) keeps
    the gradient finite.

    Args:
        attention: A, (B, M, P).
        scales: the attention maps S_j of all scales, each (B, M, P).

    Returns:
        A scalar.

    >>> a = torch.rand(1, 2, 5)
    >>> diversity_loss(a, [a]).item()  # no difference at all
    1.0
    """
    differences = torch.stack([(attention - scale).square() for scale in scales])
    mean = (1 - differences).sum() / max(1, differences.numel())  # 0 for an empty batch
    return (mean + 1e-12).sqrt()


class InteractionAware(nn.Module):
    r"""Recombine features by N = H W learned attention maps, one for each output position.

    .. math:: A = \operatorname{L2norm}(\operatorname{softmax}(\operatorname{mean}_j Y_j)), \quad
              Y_j = W_j X_j^\top \oplus b_j, \quad M = A X

    X are the positions of the last layer, X_j those of each layer of a pyramid. Row m of A is one
    attention map over all positions, of unit length; it yields position m of the output. For a
    clip, the positions of all K frames are stacked, W_j and b_j are the same, and the output is one
    feature map.

    The paper does not specify three things, chosen here: the fusion of the layers (their mean), the
    resizing of earlier layers to the last (average pooling), and the scale of the losses (see
    :func:`pca_loss`, :func:`diversity_loss`). b_j adds the same number to a whole row, so the
    softmax cancels it; it is kept because the paper has it. There is no residual path. W_j fixes
    the feature size, and A is N x (K N) numbers in memory: use it on low-resolution features.

    Args:
        channels: C of the layer, or of each layer of a pyramid; the output is made of the last.
        size: (H, W) of the last layer.

    >>> block = InteractionAware((8, 16), size=(5, 7))
    >>> early, late = torch.randn(2, 8, 10, 14), torch.randn(2, 16, 5, 7)
    >>> block([early, late]).shape
    torch.Size([2, 16, 5, 7])
    >>> clip = torch.randn(2, 3, 16, 5, 7)
    >>> InteractionAware(16, size=(5, 7))(clip).shape
    torch.Size([2, 16, 5, 7])
    """

    def __init__(self, channels: int | Sequence[int], size: tuple[int, int]) -> None:
        super().__init__()
        widths = [channels] if isinstance(channels, int) else list(channels)
        positions = size[0] * size[1]
        self.size = (size[0], size[1])
        self.maps = nn.ParameterList(torch.randn(positions, c) * c**-0.5 for c in widths)
        self.bias = nn.ParameterList(torch.zeros(positions, 1) for _ in widths)

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """(B, C, H, W) or a clip (B, K, C, H, W), or a list of such layers -> (B, C, H, W).

        Raises:
            ValueError: the number of layers, their channels or the size of the last do not match.
        """
        layers = self._positions(x)
        return self._assemble(self._attend(layers)[0], layers[-1])

    def with_penalties(self, x: Tensor | Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The output, and the losses that train the attention maps: ``pca`` and ``diversity``."""
        layers = self._positions(x)
        attention, scales = self._attend(layers)
        penalties = {
            "pca": pca_loss(attention, layers[-1]),
            "diversity": diversity_loss(attention, scales),
        }
        return self._assemble(attention, layers[-1]), penalties

    def weights(self, x: Tensor | Sequence[Tensor], at: tuple[int, int] | None = None) -> Tensor:
        """The attention map of position ``at`` = (row, column): (B, H, W), of a clip (B, K, H, W).

        Without ``at``, A itself: (B, N, K N). Rows have unit length; they do not sum to 1.
        """
        attention, _ = self._attend(self._positions(x))
        if at is None:
            return attention
        pixel(attention.new_empty(1, 1, *self.size), at)  # checks
        row = attention[:, at[0] * self.size[1] + at[1]]  # (B, K N)
        last = x if isinstance(x, Tensor) else x[-1]
        return row.reshape(-1, *last.shape[1 : last.ndim - 3], *self.size)

    def _positions(self, x: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """Each layer at the block's size, as (B, K H W, C_j)."""
        layers = [x] if isinstance(x, Tensor) else list(x)
        check_batch(*(layer for layer in layers if layer.ndim != 5))  # 5 axes: clips
        widths = [w.shape[1] for w in self.maps]
        if [layer.shape[-3] for layer in layers] != widths:
            raise ValueError(
                f"expected layers of {widths} channels, got {[x.shape[-3] for x in layers]}"
            )
        if tuple(layers[-1].shape[-2:]) != self.size:
            raise ValueError(
                f"the block was built for {self.size[0]} x {self.size[1]}, the last layer is "
                f"{layers[-1].shape[-2]} x {layers[-1].shape[-1]}"
            )
        clips = [layer if layer.ndim == 5 else layer[:, None] for layer in layers]
        # (B, K, C, H, W) -> (B, K H W, C)
        return [self._resize(clip).permute(0, 1, 3, 4, 2).flatten(1, 3) for clip in clips]

    def _resize(self, clip: Tensor) -> Tensor:
        if tuple(clip.shape[-2:]) == self.size:
            return clip
        return adaptive_avg_pool2d(clip.flatten(0, 1), self.size).view(*clip.shape[:3], *self.size)

    def _attend(self, layers: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """A, and the softmax of each layer alone: (B, N, K N)."""
        with no_autocast(layers[0]):
            energies = [
                upcast(w) @ upcast(layer).transpose(1, 2) + upcast(b)
                for w, b, layer in zip(self.maps, self.bias, layers, strict=True)
            ]
            fused = torch.stack(energies).mean(0).softmax(-1)  # (B, N, K N)
            return normalize(fused, dim=-1), [energy.softmax(-1) for energy in energies]

    def _assemble(self, attention: Tensor, positions: Tensor) -> Tensor:
        recombined = attention.to(positions.dtype) @ positions  # (B, N, C)
        return recombined.transpose(1, 2).reshape(*positions.shape[::2], *self.size)  # (B, C, H, W)
