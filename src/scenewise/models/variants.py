"""What a published code does around its head: side head, upsampling, backbone, first weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from scenewise.models.heads.fcn import FCNHead


@dataclass(frozen=True)
class Variant:
    """One published code, apart from the head.

    Attributes:
        align_corners: how it upsamples scores.
        side: (channels, classes) -> its side head on the third stage.
        auxiliary: whether it trains the side head.
        auxiliary_weight: of the side head in its loss.
        contract_dilation: of its ResNet, see :class:`scenewise.models.backbone.Backbone`.
        ceil_pool: of its ResNet.
        initialise: gives a head its first weights; None for PyTorch's own.
    """

    align_corners: bool
    side: Callable[[Sequence[int], int], nn.Module]
    auxiliary: bool = True
    auxiliary_weight: float = 0.4
    contract_dilation: bool = True
    ceil_pool: bool = False
    initialise: Callable[[nn.Module], None] | None = None


def mmseg_initialise(head: nn.Module) -> None:
    """Kaiming normal in front of each norm, normal with deviation 0.01 in the main classifier."""
    for layer in head.modules():
        if isinstance(layer, nn.Sequential):
            for conv, norm in zip(layer, list(layer)[1:], strict=False):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    last = [m for m in head.get_submodule("classify").modules() if isinstance(m, nn.Conv2d)][-1]
    nn.init.normal_(last.weight, std=0.01)
    if last.bias is not None:
        nn.init.zeros_(last.bias)


def wide_side(
    channels: Sequence[int],
    classes: int,
    *,
    dropout: float,
    bias: bool = True,
    slope: float | None = 0.01,
) -> nn.Module:
    """The side head of CCNet, OCNet and their kin: half as wide as its map, often leaky."""
    return FCNHead(
        channels,
        classes,
        stage=-2,
        width=max(64, channels[-2] // 2),
        dropout=dropout,
        drop_maps=True,
        bias=bias,
        slope=slope,
    )


_NUMBERS = partial(FCNHead, stage=-2)
_MAPS = partial(FCNHead, stage=-2, drop_maps=True)

ENCODING = Variant(True, _NUMBERS, auxiliary=False)  # DANet's code, on PyTorch-Encoding
MMSEG = Variant(False, _MAPS, initialise=mmseg_initialise)
TORCHVISION = Variant(False, _NUMBERS, auxiliary_weight=0.5)
SEMSEG = Variant(True, _MAPS, contract_dilation=False)
CCNET = Variant(True, partial(wide_side, dropout=0.1), contract_dilation=False, ceil_pool=True)
OCNET = Variant(True, partial(wide_side, dropout=0.05), contract_dilation=False, ceil_pool=True)
OPENSEG = Variant(True, partial(wide_side, dropout=0.0), ceil_pool=True)
# TorchCV, on which the authors of ANN and DNL built
TORCHCV = Variant(True, partial(wide_side, dropout=0.05, slope=0.0), ceil_pool=True)
