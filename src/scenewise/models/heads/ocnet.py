"""OCNet: base, pyramid and ASP object context.

A 3x3 convolution to a quarter of the channels, the block with its dropout, and the classifier.
``"openseg"`` is the second release.
"""

from collections.abc import Sequence

from torch import nn

from scenewise.attention import ASPOC, BaseOC, PyramidOC
from scenewise.attention.layers import conv_norm
from scenewise.attention.ocnet import Variant
from scenewise.models.heads.base import Head
from scenewise.models.layers import head_width, named_sequential


def ocnet_base(
    channels: Sequence[int],
    classes: int,
    *,
    variant: str = "official",
    width: int | None = None,
    pool: int = 1,
    dropout: float = 0.05,
) -> nn.Module:
    """Base-OC; ``pool=2`` attends on a feature map of half the size, for small GPUs."""
    width = width or head_width(channels[-1])
    return block_head(channels[-1], BaseOC(width, pool, dropout, _release(variant)), width, classes)


def ocnet_pyramid(
    channels: Sequence[int],
    classes: int,
    *,
    width: int | None = None,
    sizes: Sequence[int] = (1, 2, 3, 6),
    dropout: float = 0.05,
) -> nn.Module:
    """Pyramid-OC; its first convolution has a norm but no ReLU."""
    width = width or head_width(channels[-1])
    return block_head(
        channels[-1], PyramidOC(width, tuple(sizes), dropout), width, classes, slope=None
    )


def ocnet_asp(
    channels: Sequence[int],
    classes: int,
    *,
    variant: str = "official",
    width: int | None = None,
    dropout: float = 0.1,
) -> nn.Module:
    """ASP-OC: object context as one branch of an atrous spatial pyramid."""
    width = width or head_width(channels[-1])
    block = ASPOC(width, dropout=dropout, variant=_release(variant))
    return block_head(channels[-1], block, width, classes)


def block_head(
    inputs: int, block: nn.Module, width: int, classes: int, slope: float | None = 0.01
) -> nn.Module:
    """A 3x3 convolution with bias and leaky ReLU, ``block``, and the classifier without dropout."""
    reduce = conv_norm(inputs, width, 3, bias=True, slope=slope)
    return Head(named_sequential(reduce=reduce, block=block), nn.Conv2d(width, classes, 1))


def _release(variant: str) -> Variant:
    return "openseg" if variant == "openseg" else "ocnet"
