"""The table of networks: head, paper, attention and published variants of each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from scenewise.models.heads.ann import ANNHead
from scenewise.models.heads.ccnet import ccnet
from scenewise.models.heads.chain import ChainHead
from scenewise.models.heads.danet import DANetHead
from scenewise.models.heads.deeplabv3 import deeplabv3
from scenewise.models.heads.deeplabv3plus import deeplabv3plus
from scenewise.models.heads.dnl import dnl
from scenewise.models.heads.dpt import DPTHead
from scenewise.models.heads.dranet import DRANetHead
from scenewise.models.heads.emanet import emanet
from scenewise.models.heads.encnet import EncNetHead
from scenewise.models.heads.fcn import fcn
from scenewise.models.heads.gcnet import gcnet
from scenewise.models.heads.interaction import InteractionHead
from scenewise.models.heads.isa import isa
from scenewise.models.heads.non_local import non_local
from scenewise.models.heads.ocnet import ocnet_asp, ocnet_base, ocnet_pyramid
from scenewise.models.heads.ocr import OCRHead
from scenewise.models.heads.ocr_asp import ASPOCRHead
from scenewise.models.heads.psanet import psanet
from scenewise.models.heads.pspnet import pspnet
from scenewise.models.heads.single_block import cbam, channel, position, sagan, squeeze_excite
from scenewise.models.heads.upernet import UPerNetHead
from scenewise.models.variants import (
    CCNET,
    ENCODING,
    MMSEG,
    OCNET,
    OPENSEG,
    SEMSEG,
    TORCHCV,
    TORCHVISION,
    Variant,
    wide_fcn,
)


@dataclass(frozen=True)
class Network:
    """How a network is built, and the paper it comes from.

    Attributes:
        head: (channels of the feature maps, number of classes, **options) -> head.
            ``create_model`` sets the options ``variant``, ``output_stride`` and ``align_corners``.
        paper: its short reference, without the year.
        year: of the paper; None without one.
        attention: what attends to what, in a few words.
        variants: the published codes by name, choices for ``variant``; the first is the default.
        low_level: channels of the stride-4 feature map in the decoder; 0 for no decoder.
        layers: of a plain transformer that the head fuses; 0 for other backbones.
    """

    head: Callable[..., nn.Module]
    paper: str
    year: int | None
    attention: str
    variants: dict[str, Variant]
    low_level: int = 0
    layers: int = 0


_BLOCK_ONLY = {"official": ENCODING}  # papers without a segmentation network: trained as DANet
_DNL = replace(TORCHCV, auxiliary_head=partial(wide_fcn, dropout=0.1, bias=False, slope=0.0))
_DRANET = replace(MMSEG, align_corners=True, initialise=None)
_ENCNET = replace(ENCODING, auxiliary=True, auxiliary_weight=0.2)
_ISA = replace(OPENSEG, auxiliary_head=partial(wide_fcn, dropout=0.05))
_OCNET_ASP = replace(OCNET, auxiliary_head=partial(wide_fcn, dropout=0.1))
_OCNET_PYRAMID = replace(OCNET, auxiliary_head=partial(wide_fcn, dropout=0.05, slope=None))
_OCNET_PAPER = "Yuan & Wang, arXiv 1809.00916"
_DEEPLABV3 = {
    "torchvision": TORCHVISION,
    "mmseg": MMSEG,
    "ccnet": CCNET,
    "encoding": replace(ENCODING, auxiliary=True),
}
_FCN = {
    "official": ENCODING,
    "mmseg": MMSEG,
    "torchvision": TORCHVISION,
    "ocnet": replace(OCNET, auxiliary=False),
}
_PLUS = {"low_level": 48}  # with DeepLabV3+'s decoder
_OCR = {"official": replace(OPENSEG, auxiliary=False), "mmseg": replace(MMSEG, auxiliary=False)}
_PSPNET = {"official": SEMSEG, "mmseg": MMSEG, "encoding": replace(ENCODING, auxiliary=True)}


def _or_mmseg(official: Variant) -> dict[str, Variant]:
    return {"official": official, "mmseg": MMSEG}


NETWORKS: dict[str, Network] = {
    "ann": Network(
        ANNHead, "Zhu et al., ICCV", 2019, "position, to a pyramid of averages", _or_mmseg(TORCHCV)
    ),
    "cbam": Network(cbam, "Woo et al., ECCV", 2018, "channel and pixel gates", _BLOCK_ONLY),
    "ccnet": Network(ccnet, "Huang et al., ICCV", 2019, "criss-cross", _or_mmseg(CCNET)),
    "ccnet_plus": Network(
        ccnet, "Huang et al., ICCV", 2019, "criss-cross", _or_mmseg(CCNET), **_PLUS
    ),
    "chain": Network(ChainHead, "custom", None, "any, in sequence", _BLOCK_ONLY),
    "channel": Network(channel, "Fu et al., CVPR", 2019, "channel", _BLOCK_ONLY),
    "danet": Network(DANetHead, "Fu et al., CVPR", 2019, "position + channel", _or_mmseg(ENCODING)),
    "danet_plus": Network(
        DANetHead, "Fu et al., CVPR", 2019, "position + channel", _or_mmseg(ENCODING), **_PLUS
    ),
    "deeplabv3": Network(
        deeplabv3, "Chen et al., arXiv 1706.05587", 2017, "none: dilated pyramid", _DEEPLABV3
    ),
    "deeplabv3plus": Network(
        deeplabv3plus,
        "Chen et al., ECCV",
        2018,
        "none: dilated pyramid",
        {"mmseg": MMSEG},
        **_PLUS,
    ),
    "dnl": Network(
        dnl, "Yin et al., ECCV", 2020, "position, pairwise and unary separately", _or_mmseg(_DNL)
    ),
    "dpt": Network(
        DPTHead,
        "Ranftl et al., ICCV",
        2021,
        "none: four layers of a transformer",
        {"official": replace(ENCODING, align_corners=False)},
        layers=4,
    ),
    "dranet": Network(
        DRANetHead,
        "Fu et al., TNNLS",
        2020,
        "position + channel, to few centres",
        {"official": _DRANET},
    ),
    "emanet": Network(
        emanet, "Li et al., ICCV", 2019, "position, to fitted bases", _or_mmseg(ENCODING)
    ),
    "encnet": Network(
        EncNetHead, "Zhang et al., CVPR", 2018, "channel gates, from codewords", _or_mmseg(_ENCNET)
    ),
    "fcn": Network(fcn, "Long et al., CVPR", 2015, "none", _FCN),
    "fcn_plus": Network(fcn, "Long et al., CVPR", 2015, "none", _FCN, **_PLUS),
    "gcnet": Network(
        gcnet, "Cao et al., ICCVW", 2019, "position, one row for all queries", {"mmseg": MMSEG}
    ),
    "interaction": Network(
        InteractionHead,
        "Du et al., ECCV",
        2018,
        "learned weights over fixed positions",
        _BLOCK_ONLY,
    ),
    "isa": Network(
        isa, "Huang et al., arXiv 1907.12273", 2019, "position, far then near", _or_mmseg(_ISA)
    ),
    "nonlocal": Network(non_local, "Wang et al., CVPR", 2018, "position", {"mmseg": MMSEG}),
    "ocnet_asp": Network(
        ocnet_asp,
        _OCNET_PAPER,
        2018,
        "position, in a dilated pyramid",
        {"official": _OCNET_ASP, "openseg": OPENSEG},
    ),
    "ocnet_base": Network(
        ocnet_base, _OCNET_PAPER, 2018, "position", {"official": OCNET, "openseg": OPENSEG}
    ),
    "ocnet_pyramid": Network(
        ocnet_pyramid, _OCNET_PAPER, 2018, "position, in tiles", {"official": _OCNET_PYRAMID}
    ),
    "ocr": Network(OCRHead, "Yuan et al., ECCV", 2020, "position, to regions of classes", _OCR),
    "ocr_asp": Network(
        ASPOCRHead,
        "Yuan et al., ECCV",
        2020,
        "position, to regions of classes, in a dilated pyramid",
        {"official": replace(OPENSEG, auxiliary=False)},
    ),
    "position": Network(position, "Fu et al., CVPR", 2019, "position", _BLOCK_ONLY),
    "psanet": Network(
        psanet,
        "Zhao et al., ECCV",
        2018,
        "position, predicted from one pixel",
        {"official": SEMSEG},
    ),
    "pspnet": Network(pspnet, "Zhao et al., CVPR", 2017, "none: pyramid pooling", _PSPNET),
    "sagan": Network(sagan, "Zhang et al., ICML", 2019, "position", _BLOCK_ONLY),
    "se": Network(squeeze_excite, "Hu et al., CVPR", 2018, "channel gates", _BLOCK_ONLY),
    "upernet": Network(
        UPerNetHead, "Xiao et al., ECCV", 2018, "none: pooling and pyramid", {"mmseg": MMSEG}
    ),
}
