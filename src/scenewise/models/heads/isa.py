"""ISA: interlaced sparse attention."""

from collections.abc import Sequence

from torch import nn

from scenewise.attention import InterlacedSparse
from scenewise.attention.layers import conv_norm
from scenewise.models.heads.base import Head
from scenewise.models.heads.ocnet import block_head
from scenewise.models.layers import classifier, head_width, named_sequential


def isa(
    channels: Sequence[int],
    classes: int,
    *,
    variant: str = "official",
    width: int | None = None,
    tile: Sequence[int] = (8, 8),
    dropout: float | None = None,
) -> nn.Module:
    """Interlaced sparse attention; mmsegmentation has its dropout before the classifier."""
    width = width or head_width(channels[-1])
    rows, columns = tile
    if variant != "mmseg":
        drop = 0.05 if dropout is None else dropout
        block = InterlacedSparse(width, tile=(rows, columns), dropout=drop)
        return block_head(channels[-1], block, width, classes)
    block = InterlacedSparse(width, tile=(rows, columns), variant="mmseg")
    context = named_sequential(reduce=conv_norm(channels[-1], width, 3), block=block)
    return Head(context, classifier(width, classes, 0.1 if dropout is None else dropout))
