"""CCNet: criss-cross attention."""

from collections.abc import Sequence

from torch import nn

from scenewise.attention import CrissCrossAttention
from scenewise.models.heads.base import Head
from scenewise.models.heads.single_block import concat_branch
from scenewise.models.layers import classifier, head_width


def ccnet(
    channels: Sequence[int],
    classes: int,
    *,
    variant: str = "official",
    width: int | None = None,
    recurrence: int = 2,
    dropout: float = 0.1,
) -> nn.Module:
    """Criss-cross attention; leaky ReLU in the authors' code, ReLU in mmsegmentation."""
    width = width or head_width(channels[-1])
    slope = 0.01 if variant == "official" else 0.0  # InPlaceABN's leaky ReLU
    block = CrissCrossAttention(width, recurrence=recurrence)
    context = concat_branch(channels[-1], block, width, slope)
    return Head(context, classifier(width, classes, dropout))
