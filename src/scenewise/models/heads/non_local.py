"""The non-local network."""

from collections.abc import Sequence

from torch import nn

from scenewise.attention import NonLocal
from scenewise.attention.non_local import Kind
from scenewise.models.heads.base import Head
from scenewise.models.heads.single_block import concat_branch
from scenewise.models.layers import classifier, head_width


def non_local(
    channels: Sequence[int],
    classes: int,
    *,
    width: int | None = None,
    kind: Kind = "embedded_gaussian",
    reduction: int = 2,
    use_scale: bool = True,
    dropout: float = 0.1,
) -> nn.Module:
    """A non-local block in mmsegmentation's head; the authors published video networks."""
    width = width or head_width(channels[-1])
    block = NonLocal(width, kind=kind, reduction=reduction, use_scale=use_scale, variant="mmcv")
    return Head(concat_branch(channels[-1], block, width), classifier(width, classes, dropout))
