"""The networks, in one visible table."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from scenewise.models.heads import ChainHead, DANetHead
from scenewise.models.heads.attention import (
    cbam,
    ccnet,
    channel,
    nonlocal_,
    position,
    sagan,
    squeeze_excite,
)
from scenewise.models.heads.fcn import fcn
from scenewise.models.heads.interaction import InteractionHead
from scenewise.models.heads.object_context import ocnet_asp, ocnet_base, ocnet_pyramid
from scenewise.models.heads.pyramid import deeplabv3, pspnet
from scenewise.models.wiring import (
    CCNET,
    ENCODING,
    MMSEG,
    OCNET,
    OPENSEG,
    SEMSEG,
    TORCHVISION,
    Wiring,
    leaky_side,
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
        wirings: the published codes by name, the choices for ``variant``; the first is the default.
    """

    head: Callable[..., nn.Module]
    paper: str
    year: int | None
    attention: str
    wirings: dict[str, Wiring]


# Blocks of papers without a segmentation network, in DANet's surroundings.
_OWN = {"official": ENCODING}
_OCNET_ASP = replace(OCNET, side=partial(leaky_side, dropout=0.1))
_OCNET_PYRAMID = replace(OCNET, side=partial(leaky_side, dropout=0.05, rectify=False))

NETWORKS: dict[str, Network] = {
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
    "interaction": Network(
        InteractionHead, "Du et al., ECCV", 2018, "learned maps over fixed places", _OWN
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
    "position": Network(position, "Fu et al., CVPR", 2019, "position", _OWN),
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
