"""Write models in the checkpoint layouts of other projects."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from scenewise.errors import UserError
from scenewise.files import atomic_write
from scenewise.models.convert import from_danet, from_mmseg
from scenewise.models.resnet_keys import DEEP_STEM
from scenewise.models.segmenter import Segmenter

_Layout = Literal["mmseg", "danet"]

# timm's names of a ResNet's stem -> each layout's; stages have the same names everywhere.
_STEMS: dict[str, dict[str, str]] = {
    "mmseg": {name: f"stem.{index}" for index, name in DEEP_STEM.items()},
    "danet": {},  # timm's names are PyTorch-Encoding's
}
_BACKBONE = {"mmseg": "backbone.", "danet": "pretrained."}


def _external_state_dict(model: Segmenter, layout: _Layout) -> dict[str, Tensor]:
    """The model's tensors with the keys and shapes of another project.

    Raises:
        UserError: the layout does not support this network or backbone.
    """
    recipe = model.recipe or {}
    heads = _heads(layout, recipe)
    stem = _STEMS[layout] if "backbone.net.conv1.0.weight" in model.state_dict() else {}
    tensors: dict[str, Tensor] = {}
    for key, tensor in model.state_dict().items():
        for name in _names(key, heads, stem, _BACKBONE[layout]):
            tensors[name] = from_mmseg.export_tensor(name, tensor) if layout == "mmseg" else tensor
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def save_external(model: Segmenter, layout: _Layout, file: str | Path) -> None:
    """Write the model as a checkpoint of another project, with its class names for mmseg."""
    content: dict[str, Any] = {"state_dict": _external_state_dict(model, layout)}
    if layout == "mmseg":
        palette = [list(color) for color in model.classes.colors]
        content["meta"] = {"CLASSES": model.classes.names, "PALETTE": palette}
    with atomic_write(file) as temporary:
        torch.save(content, temporary)


def _heads(layout: _Layout, recipe: dict[str, Any]) -> dict[str, str]:
    """Prefixes in the layout -> prefixes here."""
    name, variant = recipe.get("name"), recipe.get("variant")
    if layout == "danet":
        networks = {"danet": from_danet.DANET, "dranet": from_danet.DRANET, "fcn": from_danet.FCN}
        fits = name == "danet" or variant == "official"  # all DANets have the same head
    else:
        networks = {n: from_mmseg.head_mapping(n) for n, _ in from_mmseg.HEADS.values()}
        fits = name == "danet" or variant == "mmseg"
    if name not in networks or not fits or not str(recipe.get("backbone")).startswith("resnet"):
        raise UserError(
            f"the layout of {layout} does not support network '{name}' ({variant}) with backbone "
            f"'{recipe.get('backbone')}'; it supports {', '.join(networks)} with a ResNet"
        )
    if layout == "danet" and name == "danet" and recipe.get("auxiliary"):
        raise UserError(
            "the layout of danet does not support an auxiliary head on the third stage; build the "
            "network with auxiliary=False"
        )
    return networks[name]


def _names(key: str, heads: dict[str, str], stem: dict[str, str], backbone: str) -> list[str]:
    """The keys of one tensor in the layout; two where it stores a layer twice."""
    if key.startswith("backbone.net."):
        inner = key.removeprefix("backbone.net.")
        longest = max((name for name in stem if inner.startswith(f"{name}.")), key=len, default="")
        return [backbone + stem.get(longest, "") + inner[len(longest) :]]
    fitting = [p for p in heads.values() if key == p or key.startswith(f"{p}.")]
    longest = max(fitting, key=len)  # the most specific prefix
    return [name + key[len(longest) :] for name, prefix in heads.items() if prefix == longest]
