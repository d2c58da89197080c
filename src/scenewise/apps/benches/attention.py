"""Position attention against the dense formula."""

import torch
from torch import Tensor

from scenewise.apps.benches.measure import Row, compare, forward_and_backward, forward_only
from scenewise.attention import position_attention

CHANNELS, INNER = 512, 64
PIXELS = (1024, 4096, 9216, 16384)


def dense(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(QK^T)V with the whole map in memory, as every port of DANet computes it."""
    return torch.softmax(query @ key.transpose(1, 2), dim=-1) @ value


def rows(repeats: int = 5) -> list[Row]:
    """Forward, and forward + backward, at several numbers of pixels."""
    found = []
    for pixels in PIXELS:
        inputs = [torch.randn(1, c, pixels).transpose(1, 2) for c in (INNER, INNER, CHANNELS)]
        inputs[0] *= INNER**-0.5
        for name, runner in (("forward", forward_only), ("+ backward", forward_and_backward)):
            work = f"N = {pixels}, D {INNER}, C {CHANNELS}, {name}"
            ways = {"dense": runner(dense, inputs), "blocks": runner(position_attention, inputs)}
            found += compare(work, ways, repeats)
    return found
