"""The networks, in one visible table."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from scenewise.models.heads.ann import ANNHead
from scenewise.models.heads.chain import ChainHead
from scenewise.models.heads.danet import DANetHead
from scenewise.models.heads.deeplabv3 import deeplabv3
from scenewise.models.heads.dranet import DRANetHead
from scenewise.models.heads.encnet import EncNetHead
from scenewise.models.heads.fcn import fcn
from scenewise.models.heads.interaction import InteractionHead
from scenewise.models.heads.ocnet import isa, ocnet_asp, ocnet_base, ocnet_pyramid
from scenewise.models.heads.ocr import OCRHead
from scenewise.models.heads.pspnet import pspnet
from scenewise.models.heads.single_block import (
    cbam,
    ccnet,
    channel,
    dnl,
    emanet,
    gcnet,
    nonlocal_,
    position,
    psanet,
    sagan,
    squeeze_excite,
)
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
    wide_side,
)


@dataclass(frozen=True)
class Network:
    """How a named network is built, and where it comes from.

    Attributes:
        head: (channels of the maps, number of classes, **options) -> head. Of its options,
            ``variant``, ``output_stride`` and ``align_corners`` are given by ``create_model``.
        paper: its short reference, without the year.
        year: of the paper; None without one.
        attention: what gathers from what, in a few words.
        variants: the published codes by name, choices for ``variant``; the first is the default.
    """

    head: Callable[..., nn.Module]
    paper: str
    year: int | None
    attention: str
    variants: dict[str, Variant]


# Blocks of papers without a segmentation network, in DANet's surroundings.
_OWN = {"official": ENCODING}
_DNL = replace(TORCHCV, side=partial(wide_side, dropout=0.1, bias=False, slope=0.0))
_DRANET = replace(MMSEG, align_corners=True, initialise=None)
_ENCNET = replace(ENCODING, auxiliary=True, auxiliary_weight=0.2)
_ISA = replace(OPENSEG, side=partial(wide_side, dropout=0.05))
_OCNET_ASP = replace(OCNET, side=partial(wide_side, dropout=0.1))
_OCNET_PYRAMID = replace(OCNET, side=partial(wide_side, dropout=0.05, slope=None))

NETWORKS: dict[str, Network] = {
    "ann": Network(
        ANNHead,
        "Zhu et al., ICCV",
        2019,
        "position, to a pyramid of averages",
        {"official": TORCHCV, "mmseg": MMSEG},
    ),
    "cbam": Network(cbam, "Woo et al., ECCV", 2018, "channel and pixel gates", _OWN),
    "ccnet": Network(
        ccnet, "Huang et al., ICCV", 2019, "criss-cross", {"official": CCNET, "mmseg": MMSEG}
    ),
    "chain": Network(ChainHead, "your own", None, "any, one behind the other", _OWN),
    "channel": Network(channel, "Fu et al., CVPR", 2019, "channel", _OWN),
    "danet": Network(
        DANetHead,
        "Fu et al., CVPR",
        2019,
        "position + channel",
        {"official": ENCODING, "mmseg": MMSEG},
    ),
    "deeplabv3": Network(
        deeplabv3,
        "Chen et al., arXiv 1706.05587",
        2017,
        "none: dilated pyramid",
        {
            "torchvision": TORCHVISION,
            "mmseg": MMSEG,
            "ccnet": CCNET,
            "encoding": replace(ENCODING, auxiliary=True),
        },
    ),
    "dnl": Network(
        dnl,
        "Yin et al., ECCV",
        2020,
        "position, pairwise and unary apart",
        {"official": _DNL, "mmseg": MMSEG},
    ),
    "dranet": Network(
        DRANetHead,
        "Fu et al., TNNLS",
        2020,
        "position + channel, to few centres",
        {"official": _DRANET},
    ),
    "emanet": Network(
        emanet,
        "Li et al., ICCV",
        2019,
        "position, to fitted bases",
        {"official": ENCODING, "mmseg": MMSEG},
    ),
    "encnet": Network(
        EncNetHead,
        "Zhang et al., CVPR",
        2018,
        "channel gates, from codewords",
        {"official": _ENCNET, "mmseg": MMSEG},
    ),
    "fcn": Network(
        fcn,
        "Long et al., CVPR",
        2015,
        "none",
        {
            "official": ENCODING,
            "mmseg": MMSEG,
            "torchvision": TORCHVISION,
            "ocnet": replace(OCNET, auxiliary=False),
        },
    ),
    "gcnet": Network(
        gcnet, "Cao et al., ICCVW", 2019, "position, one row for all", {"mmseg": MMSEG}
    ),
    "interaction": Network(
        InteractionHead, "Du et al., ECCV", 2018, "learned maps over fixed places", _OWN
    ),
    "isa": Network(
        isa,
        "Huang et al., arXiv 1907.12273",
        2019,
        "position, far then near",
        {"official": _ISA, "mmseg": MMSEG},
    ),
    "nonlocal": Network(nonlocal_, "Wang et al., CVPR", 2018, "position", {"mmseg": MMSEG}),
    "ocnet_asp": Network(
        ocnet_asp,
        "Yuan & Wang, arXiv 1809.00916",
        2018,
        "position, in a dilated pyramid",
        {"official": _OCNET_ASP, "openseg": OPENSEG},
    ),
    "ocnet_base": Network(
        ocnet_base,
        "Yuan & Wang, arXiv 1809.00916",
        2018,
        "position",
        {"official": OCNET, "openseg": OPENSEG},
    ),
    "ocnet_pyramid": Network(
        ocnet_pyramid,
        "Yuan & Wang, arXiv 1809.00916",
        2018,
        "position, in tiles",
        {"official": _OCNET_PYRAMID},
    ),
    "ocr": Network(
        OCRHead,
        "Yuan et al., ECCV",
        2020,
        "position, to regions of classes",
        {"official": replace(OPENSEG, auxiliary=False), "mmseg": replace(MMSEG, auxiliary=False)},
    ),
    "position": Network(position, "Fu et al., CVPR", 2019, "position", _OWN),
    "psanet": Network(
        psanet,
        "Zhao et al., ECCV",
        2018,
        "position, predicted from one pixel",
        {"official": SEMSEG},
    ),
    "pspnet": Network(
        pspnet,
        "Zhao et al., CVPR",
        2017,
        "none: pyramid pooling",
        {
            "official": SEMSEG,
            "mmseg": MMSEG,
            "encoding": replace(ENCODING, auxiliary=True),
        },
    ),
    "sagan": Network(sagan, "Zhang et al., ICML", 2019, "position", _OWN),
    "se": Network(squeeze_excite, "Hu et al., CVPR", 2018, "channel gates", _OWN),
}
