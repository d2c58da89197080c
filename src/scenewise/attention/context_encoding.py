"""Context encoding: channel gates from the image's statistics relative to learned codewords.

Zhang et al., "Context Encoding for Semantic Segmentation", CVPR 2018.
"""

import torch
from torch import Tensor, nn

from scenewise.attention.kernels.precision import no_autocast, upcast
from scenewise.attention.layers import check_batch, conv_norm
from scenewise.attention.position import pixels


def encode(x: Tensor, codewords: Tensor, smoothing: Tensor) -> Tensor:
    r"""Residuals to each codeword, softly assigned and summed over the pixels.

    .. math:: e_k = \sum_i \operatorname{softmax}_k(s_k \|x_i - d_k\|^2) (x_i - d_k)

    No (N, K, C) tensor is allocated: distances and sums are expanded into matrix products.

    Args:
        x: (B, N, C).
        codewords: d, (K, C).
        smoothing: s, (K,); negative values give near codewords more weight.

    Returns:
        (B, K, C), float32 or wider.

    >>> encode(torch.ones(1, 5, 2), torch.zeros(1, 2), -torch.ones(1))
    tensor([[[5., 5.]]])
    """
    with no_autocast(x):
        x, codewords, smoothing = upcast(x), upcast(codewords), upcast(smoothing)
        lengths = x.square().sum(-1, keepdim=True) + codewords.square().sum(-1)  # (B, N, K)
        distances = lengths - 2 * x @ codewords.T  # |x|^2 + |d|^2 - 2 x d
        shares = (smoothing * distances).softmax(-1)  # (B, N, K)
        return shares.transpose(1, 2) @ x - shares.sum(1)[..., None] * codewords


class ContextEncoding(nn.Module):
    r"""EncNet's module: channel gates from an encoding, and which classes are present.

    .. math:: y = \operatorname{relu}(x + \sigma(W e) \odot x), \quad
              e = \operatorname{mean}_k \operatorname{relu}(\operatorname{BN}(e_k))

    e_k is the :func:`encode` of a 1x1 convolution of x with norm and ReLU. A gate never closes a
    channel: it scales by 1 to 2. A linear layer on e predicts which classes are in the image, for
    the semantic encoding loss (binary cross-entropy, weight 0.2 in the paper). As in the authors'
    later code; the first release had no first convolution, summed over k, and had no last ReLU.

    Args:
        channels: C, channels of the input and the output.
        codewords: K, the number of codewords.
        classes: number of classes that :meth:`with_presence` predicts; None omits the layer.

    >>> block = ContextEncoding(16, codewords=4, classes=3)
    >>> y, presence = block.with_presence(torch.randn(2, 16, 5, 7))
    >>> y.shape, presence.shape
    (torch.Size([2, 16, 5, 7]), torch.Size([2, 3]))
    """

    def __init__(self, channels: int, codewords: int = 32, classes: int | None = None) -> None:
        super().__init__()
        bound = (codewords * channels) ** -0.5  # as the authors initialise
        self.project = conv_norm(channels, channels)
        self.codewords = nn.Parameter(torch.empty(codewords, channels).uniform_(-bound, bound))
        self.smoothing = nn.Parameter(torch.empty(codewords).uniform_(-1, 0))
        self.norm = nn.BatchNorm1d(codewords)
        self.gate = nn.Linear(channels, channels)
        self.presence = None if classes is None else nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), non-negative."""
        return self._apply_gate(x, self._encoding(x))

    def with_presence(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and the logits (B, classes) of which classes are present.

        Raises:
            ValueError: the block was built without ``classes``.
        """
        if self.presence is None:
            raise ValueError("ContextEncoding was built without classes; pass classes=...")
        encoding = self._encoding(x)
        return self._apply_gate(x, encoding), self.presence(encoding)

    def gates(self, x: Tensor) -> Tensor:
        """The gate of each channel, between 0 and 1: (B, C)."""
        return self._gates(self._encoding(x))

    def _encoding(self, x: Tensor) -> Tensor:
        check_batch(x)
        codes = encode(pixels(self.project(x)), self.codewords, self.smoothing)  # (B, K, C)
        codes = codes.to(self.norm.weight.dtype)
        encoding: Tensor = self.norm(codes).relu().mean(1)  # (B, C)
        return encoding

    def _gates(self, encoding: Tensor) -> Tensor:
        gates: Tensor = self.gate(encoding).sigmoid()
        return gates

    def _apply_gate(self, x: Tensor, encoding: Tensor) -> Tensor:
        return (x + self._gates(encoding)[:, :, None, None] * x).relu()
