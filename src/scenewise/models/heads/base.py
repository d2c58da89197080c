"""The output of every head, and the head that is one context module and a classifier."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn


class HeadOutput(NamedTuple):
    """Logits (B, K, h, w), named auxiliary logits, and named scalar penalties."""

    logits: Tensor
    auxiliary: dict[str, Tensor]
    penalties: dict[str, Tensor]


class Head(nn.Module):
    """A context module on the last feature map, then a classifier.

    Args:
        context: (B, C, h, w) -> (B, D, h, w).
        classify: (B, D, h, w) -> (B, K, h, w).
    """

    def __init__(self, context: nn.Module, classify: nn.Module) -> None:
        super().__init__()
        self.context = context
        self.classify = classify

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        """Feature maps -> logits at the size of the last one."""
        x = self.context(features[-1])  # (B, D, h, w)
        return HeadOutput(self.classify(x), {}, {})
