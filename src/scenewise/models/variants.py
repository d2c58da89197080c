"""What each published code does around its head: auxiliary head, upsampling, backbone, init."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from scenewise.models.heads.fcn import FCNHead


@dataclass(frozen=True)
class Variant:
    """One published code, apart from the head.

    Attributes:
        align_corners: of the bilinear upsampling of logits.
        auxiliary_head: (channels, classes) -> its auxiliary head on the third stage.
        auxiliary: whether it trains with the auxiliary head.
        auxiliary_weight: of the auxiliary head in its loss.
        contract_dilation: of its ResNet, see :class:`scenewise.models.backbone.Backbone`.
        ceil_pool: of its ResNet.
        initialise: initialises the weights of a head; None for PyTorch's defaults.
    """

    align_corners: bool
    auxiliary_head: Callable[[Sequence[int], int], nn.Module]
    auxiliary: bool = True
    auxiliary_weight: float = 0.4
    contract_dilation: bool = True
    ceil_pool: bool = False
    initialise: Callable[[nn.Module], None] | None = None


def _initialise_mmseg(head: nn.Module) -> None:
    """Kaiming normal before each norm, normal with deviation 0.01 in the main classifier."""
    for layer in head.modules():
        if isinstance(layer, nn.Sequential):
            for conv, norm in zip(layer, list(layer)[1:], strict=False):  # neighbours
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    last = [m for m in head.get_submodule("classify").modules() if isinstance(m, nn.Conv2d)][-1]
    nn.init.normal_(last.weight, std=0.01)  # mmsegmentation's default for conv_seg
    if last.bias is not None:
        nn.init.zeros_(last.bias)


def wide_fcn(
    channels: Sequence[int],
    classes: int,
    *,
    dropout: float,
    bias: bool = True,
    slope: float | None = 0.01,
) -> nn.Module:
    """FCN head with half its input's channels, as in CCNet and OCNet; often leaky ReLU."""
    return FCNHead(
        channels,
        classes,
        stage=-2,  # the third of four
        width=max(64, channels[-2] // 2),  # 512 for the 1024 channels of a ResNet
        dropout=dropout,
        dropout2d=True,
        bias=bias,
        slope=slope,
    )


_FCN_DROPOUT = partial(FCNHead, stage=-2)
_FCN_DROPOUT2D = partial(FCNHead, stage=-2, dropout2d=True)

ENCODING = Variant(True, _FCN_DROPOUT, auxiliary=False)  # DANet's code, on PyTorch-Encoding
MMSEG = Variant(False, _FCN_DROPOUT2D, initialise=_initialise_mmseg)  # except at 769 x 769
TORCHVISION = Variant(False, _FCN_DROPOUT, auxiliary_weight=0.5)
SEMSEG = Variant(True, _FCN_DROPOUT2D, contract_dilation=False)  # PSPNet and PSANet
CCNET = Variant(True, partial(wide_fcn, dropout=0.1), contract_dilation=False, ceil_pool=True)
OCNET = Variant(True, partial(wide_fcn, dropout=0.05), contract_dilation=False, ceil_pool=True)
OPENSEG = Variant(True, partial(wide_fcn, dropout=0.0), ceil_pool=True)
# TorchCV, on which the authors of ANN and DNL built
TORCHCV = Variant(True, partial(wide_fcn, dropout=0.05, slope=0.0), ceil_pool=True)
