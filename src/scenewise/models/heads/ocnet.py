"""The heads of OCNet (base, pyramid and ASP object context) and of interlaced sparse attention.

In all of them a 3x3 convolution leads to a quarter of the channels, then stands the block with its
dropout, then the classifier. ``"openseg"`` is the second release.
"""

from collections.abc import Sequence

from torch import nn

from scenewise.attention import ASPOC, BaseOC, InterlacedSparse, PyramidOC
from scenewise.attention.layers import conv_norm
from scenewise.attention.ocnet import Variant
from scenewise.models.heads.base import Head
from scenewise.models.layers import classifier, head_width, stack


def ocnet_base(
    channels: Sequence[int],
    classes: int,
    *,
    variant: str = "official",
    width: int | None = None,
    pool: int = 1,
    dropout: float = 0.05,
) -> nn.Module:
    """Base-OC; ``pool=2`` attends on a map of half the size, for small GPUs."""
    width = width or head_width(channels[-1])
    return _head(channels[-1], BaseOC(width, pool, dropout, _release(variant)), width, classes)


def ocnet_pyramid(
    channels: Sequence[int],
    classes: int,
    *,
    width: int | None = None,
    sizes: Sequence[int] = (1, 2, 3, 6),
    dropout: float = 0.05,
) -> nn.Module:
    """Pyramid-OC; its first convolution has a norm but no rectifier."""
    width = width or head_width(channels[-1])
    return _head(channels[-1], PyramidOC(width, tuple(sizes), dropout), width, classes, slope=None)


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
    return _head(channels[-1], block, width, classes)


def isa(
    channels: Sequence[int],
    classes: int,
    *,
    variant: str = "official",
    width: int | None = None,
    tile: Sequence[int] = (8, 8),
    dropout: float | None = None,
) -> nn.Module:
    """Interlaced sparse attention; mmsegmentation drops maps before its classifier instead."""
    width = width or head_width(channels[-1])
    down, along = tile
    if variant != "mmseg":
        drop = 0.05 if dropout is None else dropout
        block = InterlacedSparse(width, tile=(down, along), dropout=drop)
        return _head(channels[-1], block, width, classes)
    block = InterlacedSparse(width, tile=(down, along), variant="mmseg")
    context = stack(reduce=conv_norm(channels[-1], width, 3), block=block)
    return Head(context, classifier(width, classes, 0.1 if dropout is None else dropout))


def _head(
    inputs: int, block: nn.Module, width: int, classes: int, slope: float | None = 0.01
) -> nn.Module:
    reduce = conv_norm(inputs, width, 3, bias=True, slope=slope)
    return Head(stack(reduce=reduce, block=block), nn.Conv2d(width, classes, 1))


def _release(variant: str) -> Variant:
    return "openseg" if variant == "openseg" else "ocnet"
