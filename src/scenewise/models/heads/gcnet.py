"""GCNet: global context."""

from collections.abc import Sequence

from torch import nn

from scenewise.attention import GlobalContext
from scenewise.models.heads.base import Head
from scenewise.models.heads.single_block import concat_branch
from scenewise.models.layers import classifier, head_width


def gcnet(
    channels: Sequence[int],
    classes: int,
    *,
    width: int | None = None,
    reduction: int = 4,
    dropout: float = 0.1,
) -> nn.Module:
    """Global context in mmsegmentation's head; the authors published detectors."""
    width = width or head_width(channels[-1])
    block = GlobalContext(width, reduction)
    return Head(concat_branch(channels[-1], block, width), classifier(width, classes, dropout))
