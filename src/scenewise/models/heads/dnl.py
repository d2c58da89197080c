"""DNL: disentangled non-local attention."""

from collections.abc import Sequence

from torch import nn

from scenewise.attention import DisentangledNonLocal
from scenewise.models.heads.base import Head
from scenewise.models.heads.single_block import concat_branch
from scenewise.models.layers import classifier, head_width


def dnl(
    channels: Sequence[int],
    classes: int,
    *,
    variant: str = "official",
    width: int | None = None,
    temperature: float = 0.05,
    dropout: float = 0.1,
) -> nn.Module:
    """Disentangled non-local; both codes have the same head around different blocks."""
    width = width or head_width(channels[-1])
    block = DisentangledNonLocal(
        width, temperature=temperature, variant="mmseg" if variant == "mmseg" else "official"
    )
    return Head(concat_branch(channels[-1], block, width), classifier(width, classes, dropout))
