"""What every head gives, and the plainest one."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn


class HeadOutput(NamedTuple):
    """Scores (B, K, h, w), named side scores, and named scalar penalties."""

    logits: Tensor
    auxiliary: dict[str, Tensor]
    penalties: dict[str, Tensor]


class Head(nn.Module):
    """A context on the last map, then a classifier.

    Args:
        context: (B, C, h, w) -> (B, D, h, w).
        classify: (B, D, h, w) -> (B, K, h, w).
    """

    def __init__(self, context: nn.Module, classify: nn.Module) -> None:
        super().__init__()
        self.context = context
        self.classify = classify

    def forward(self, maps: Sequence[Tensor]) -> HeadOutput:
        """Maps -> scores at the size of the last map."""
        return HeadOutput(self.classify(self.context(maps[-1])), {}, {})
