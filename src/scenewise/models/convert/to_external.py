"""Models back into the layouts of other projects."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from scenewise.errors import UserError
from scenewise.files import atomic_write
from scenewise.models.convert import from_danet, from_mmseg
from scenewise.models.segmenter import Segmenter

Layout = Literal["mmseg", "danet"]

# timm's names of a ResNet's stem to each layout's; stages have the same names everywhere.
_DEEP = {
    "mmseg": {
        "conv1.0": "stem.0",
        "conv1.1": "stem.1",
        "conv1.3": "stem.3",
        "conv1.4": "stem.4",
        "conv1.6": "stem.6",
        "bn1": "stem.7",
    },
    "danet": {},  # timm's names are PyTorch-Encoding's
}
_BACKBONE = {"mmseg": "backbone.", "danet": "pretrained."}


def foreign_state(model: Segmenter, layout: Layout) -> dict[str, Tensor]:
    """The model's tensors by the names, and in the form, of another project.

    Raises:
        UserError: the layout has no place for this network or backbone.
    """
    recipe = model.recipe or {}
    heads = _heads(layout, recipe)
    stem = _DEEP[layout] if "backbone.net.conv1.0.weight" in model.state_dict() else {}
    found: dict[str, Tensor] = {}
    for key, tensor in model.state_dict().items():
        for theirs in _names(key, heads, stem, _BACKBONE[layout]):
            found[theirs] = from_mmseg.to_theirs(theirs, tensor) if layout == "mmseg" else tensor
    return {key: tensor.detach().cpu().contiguous().clone() for key, tensor in found.items()}


def save_foreign(model: Segmenter, layout: Layout, file: str | Path) -> None:
    """Write the model as a checkpoint of another project, with its class names for mmseg."""
    content: dict[str, Any] = {"state_dict": foreign_state(model, layout)}
    if layout == "mmseg":
        palette = [list(color) for color in model.classes.colors]
        content["meta"] = {"CLASSES": model.classes.names, "PALETTE": palette}
    with atomic_write(file) as temporary:
        torch.save(content, temporary)


def _heads(layout: Layout, recipe: dict[str, Any]) -> dict[str, str]:
    """Foreign prefixes to ours."""
    name, variant = recipe.get("name"), recipe.get("variant")
    if layout == "danet":
        networks = {"danet": from_danet.DANET, "dranet": from_danet.DRANET, "fcn": from_danet.FCN}
        fits = name == "danet" or variant == "official"
    else:
        networks = {n: from_mmseg.head_places(n) for n, _ in from_mmseg.HEADS.values()}
        fits = name == "danet" or variant == "mmseg"
    if name not in networks or not fits or not str(recipe.get("backbone")).startswith("resnet"):
        raise UserError(
            f"the layout of {layout} has no place for network '{name}' ({variant}) with backbone "
            f"'{recipe.get('backbone')}'; it takes {', '.join(networks)} with a ResNet"
        )
    if layout == "danet" and name == "danet" and recipe.get("auxiliary"):
        raise UserError(
            "the layout of danet has no side head on the third stage; build the network with "
            "auxiliary=False to write it so"
        )
    return networks[name]


def _names(key: str, heads: dict[str, str], stem: dict[str, str], backbone: str) -> list[str]:
    """The names of one tensor there; two where that project stores a layer twice."""
    if key.startswith("backbone.net."):
        inner = key.removeprefix("backbone.net.")
        longest = max((ours for ours in stem if inner.startswith(f"{ours}.")), key=len, default="")
        return [backbone + stem.get(longest, "") + inner[len(longest) :]]
    fitting = [p for p in heads.values() if key == p or key.startswith(f"{p}.")]
    longest = max(fitting, key=len)
    return [theirs + key[len(ours) :] for theirs, ours in heads.items() if ours == longest]
