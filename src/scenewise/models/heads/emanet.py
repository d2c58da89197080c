"""EMANet: expectation-maximisation attention."""

from collections.abc import Sequence

from torch import nn

from scenewise.attention import ExpectationMaximisation
from scenewise.models.heads.base import Head
from scenewise.models.heads.single_block import branch, concat_branch
from scenewise.models.layers import classifier, head_width


def emanet(
    channels: Sequence[int],
    classes: int,
    *,
    variant: str = "official",
    width: int | None = None,
    bases: int = 64,
    stages: int = 3,
    dropout: float = 0.1,
) -> nn.Module:
    """Expectation-maximisation attention; the second 3x3 convolution halves the channels.

    mmsegmentation concatenates the result with the backbone's feature map. The authors train with
    ``multi_grid=(2, 8, 16)``.
    """
    width, inputs = width or head_width(channels[-1]), channels[-1]
    build = concat_branch if variant == "mmseg" else branch
    block = ExpectationMaximisation(width, bases, stages)
    context = build(inputs, block, width, outputs=width // 2)  # 512, then 256, in a ResNet
    return Head(context, classifier(width // 2, classes, dropout))
