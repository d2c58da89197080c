"""Names of models and blocks as people say them."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from scenewise.apps.app.state import Network
from scenewise.attention import CrissCrossAttention
from scenewise.visualize.attention_maps import BlockMaps, ChannelMaps, PositionMaps

_NETWORKS = {
    "ann": "ANN",
    "cbam": "CBAM",
    "ccnet": "CCNet",
    "channel": "Channel attention",
    "danet": "DANet",
    "deeplabv3": "DeepLabV3",
    "deeplabv3plus": "DeepLabV3+",
    "dnl": "DNL",
    "dpt": "DPT",
    "dranet": "DRANet",
    "emanet": "EMANet",
    "encnet": "EncNet",
    "fcn": "FCN",
    "gcnet": "GCNet",
    "interaction": "Interaction-aware",
    "isa": "ISA",
    "nonlocal": "Non-local",
    "ocnet_asp": "OCNet ASP",
    "ocnet_base": "OCNet base",
    "ocnet_pyramid": "OCNet pyramid",
    "ocr": "OCR",
    "ocr_asp": "OCR ASP",
    "position": "Position attention",
    "psanet": "PSANet",
    "pspnet": "PSPNet",
    "sagan": "SAGAN",
    "se": "SE",
    "upernet": "UPerNet",
}
_BLOCKS = {
    "ASPOC": "Object context attention, in a pyramid",
    "AsymmetricFusion": "Asymmetric fusion attention",
    "AsymmetricPyramid": "Asymmetric pyramid attention",
    "BaseOC": "Object context attention",
    "CBAM": "CBAM gates",
    "CompactChannel": "Compact channel attention",
    "CompactPosition": "Compact position attention",
    "CrossLevelGate": "Cross-level gate",
    "DisentangledNonLocal": "Disentangled non-local attention",
    "ExpectationMaximisation": "Expectation-maximisation attention",
    "GlobalContext": "Global context attention",
    "InteractionAware": "Interaction-aware attention",
    "InterlacedSparse": "Interlaced sparse attention",
    "NonLocal": "Non-local attention",
    "ObjectContextual": "Attention to object regions",
    "PointwiseSpatial": "Point-wise spatial attention",
    "PyramidOC": "Object context attention, in tiles",
    "SAGANAttention": "SAGAN self-attention",
    "SqueezeExcite": "Squeeze-and-excite gate",
}


def score_in(folder: str | Path) -> float | None:
    """The mIoU, 0..1, in the ``metrics.json`` of a run folder; None if there is none.

    >>> score_in("no/such/folder") is None
    True
    """
    path = Path(folder) if Path(folder).is_dir() else Path(folder).parent
    try:
        metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
        stage = next(name for name in ("test", "val") if name in metrics)
        return float(metrics[stage]["miou"])
    except (OSError, ValueError, LookupError, TypeError, StopIteration):
        return None


def titles(networks: Sequence[Network]) -> list[str]:
    """A title for each network; the folder's name is added where two would read the same."""
    plain = [" · ".join(_parts(network)) for network in networks]
    twice = Counter(plain)
    return [
        f"{title} · {network.name}" if twice[title] > 1 else title
        for title, network in zip(plain, networks, strict=True)
    ]


def _parts(network: Network) -> list[str]:
    recipe = network.model.recipe or {}
    if not recipe:
        return [network.name]
    score = [] if network.score is None else [f"{100 * network.score:.1f} mIoU"]
    return [network_title(recipe["name"]), backbone_title(recipe["backbone"]), *score]


def network_title(name: str) -> str:
    """The name of a network.

    >>> network_title("danet"), network_title("fcn_plus"), network_title("chain")
    ('DANet', 'FCN+', 'Chain')
    """
    base, plus = name.removesuffix("_plus"), "+" if name.endswith("_plus") else ""
    return _NETWORKS.get(base, base.replace("_", " ").capitalize()) + plus


def backbone_title(name: str) -> str:
    """The name of a backbone.

    >>> backbone_title("resnet50"), backbone_title("convnext_tiny")
    ('ResNet-50', 'convnext_tiny')
    """
    return re.sub(r"^resnet(\d+)", r"ResNet-\1", name)


def block_titles(blocks: dict[str, BlockMaps]) -> dict[str, str]:
    """A title for each block; the name in the model is added where two would read the same."""
    plain = {name: block_title(block.module) for name, block in blocks.items()}
    twice = Counter(plain.values())
    return {
        name: f"{title} ({name})" if twice[title] > 1 else title for name, title in plain.items()
    }


def block_title(module: nn.Module) -> str:
    """What a block is called.

    >>> from scenewise.attention import PositionAttention
    >>> block_title(CrissCrossAttention(8)), block_title(PositionAttention(8))
    ('Criss-cross attention, 2 steps', 'Position attention')
    """
    if isinstance(module, CrissCrossAttention):
        count = module.recurrence
        return f"Criss-cross attention, {count} step{'' if count == 1 else 's'}"
    name = type(module).__name__
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # PositionAttention -> Position Attention
    return _BLOCKS.get(name, words.capitalize())


def kind_of(block: BlockMaps) -> str:
    """``position``, ``criss_cross``, ``channel`` or ``other``."""
    if isinstance(block.module, CrissCrossAttention):
        return "criss_cross"
    if isinstance(block, PositionMaps):
        return "position"
    return "channel" if isinstance(block, ChannelMaps) else "other"


def describe(network: Network, index: int, title: str) -> dict[str, Any]:
    """A model for the page."""
    recipe, classes = network.model.recipe or {}, network.model.classes
    blocks = network.maps.blocks()
    names = block_titles(blocks)
    return {
        "id": str(index),
        "title": title,
        "network": recipe.get("name", "custom"),
        "backbone": recipe.get("backbone", "custom"),
        "score": None if network.score is None else round(100 * network.score, 2),
        "classes": [
            {"name": name, "color": list(color)}
            for name, color in zip(classes.names, classes.colors, strict=True)
        ],
        "blocks": [
            {
                "id": name,
                "title": names[name],
                "kind": kind_of(block),
                "maps": isinstance(block, PositionMaps),
                "rounds": rounds_of(block),
            }
            for name, block in blocks.items()
        ],
        "attention": any(isinstance(block, PositionMaps) for block in blocks.values()),
    }


def rounds_of(block: BlockMaps) -> list[int] | None:
    """1 to the number of a criss-cross block's rounds; None for other blocks."""
    if not isinstance(block.module, CrissCrossAttention):
        return None
    return list(range(1, block.module.recurrence + 1))
