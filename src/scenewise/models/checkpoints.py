"""Models on disk: a folder with ``config.json`` and ``model.safetensors``."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.files import parse_json
from scenewise.models.build import create_model
from scenewise.models.convert.key_mapping import convert
from scenewise.models.preprocessing import Preprocessing
from scenewise.models.safe_load import read_file
from scenewise.models.segmenter import CONFIG, WEIGHTS, Segmenter

# Arguments of create_model that a configuration may not hold, and the types of those that it may.
_NOT_TAKEN = {"classes", "num_classes", "pretrained", "backbone_weights"}
_KINDS = {"name": str, "variant": str, "backbone": str, "output_stride": int} | dict.fromkeys(
    ("contract_dilation", "ceil_pool", "auxiliary", "align_corners"), bool
)


def load_model(path: str | Path, into: Segmenter | None = None) -> Segmenter:
    """A model from a folder of :meth:`Segmenter.save_pretrained`, a training run, or its ``.ckpt``.

    A public checkpoint of another project (``.pth``, ``.pth.tar``, ``.pt``, ``.safetensors``) is
    converted with the released settings; :func:`scenewise.models.convert.convert` has options.

    Loading is strict: every tensor has its place, or the file is refused. Nothing in the file is
    executed.

    Args:
        path: the folder, or the checkpoint file.
        into: a network built from your own parts, which gets the weights.

    Returns:
        The model, in evaluation mode.

    Raises:
        UserError: nothing there, damaged, or made for another network.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> create_model("fcn", num_classes=3, backbone="tiny").save_pretrained(folder)
    >>> load_model(folder).classes.names
    ('class_0', 'class_1', 'class_2')
    """
    if Path(path).is_file() and Path(path).suffix != ".ckpt":
        converted = convert(path)
        if into is None:
            return converted
        _load_strictly(into, converted.state_dict(), path)
        return into.eval()
    config, tensors = _read(Path(path))
    if into is None:
        with torch.device("meta"):  # no memory: what a stranger's configuration asks for is unknown
            _check_fit(build_model(config, path), tensors, path)
    model = into if into is not None else build_model(config, path)
    _load_strictly(model, tensors, path)
    return model.eval()


def build_model(config: dict[str, Any], source: str | Path) -> Segmenter:
    """The network that :meth:`Segmenter.config` describes, with random weights."""
    recipe = config.get("model")
    if recipe is None:
        raise UserError(
            f"'{source}' was saved from a network of its author's own parts; build it and call "
            "load_model(path, into=network)"
        )
    try:
        classes = Classes.from_dict(config["classes"])
        preprocessing = Preprocessing.from_dict(config["preprocessing"])
        model = create_model(**_options(recipe), classes=classes, pretrained=False)
    except Exception as error:  # what odd values raise in a network has no end
        reason = error if isinstance(error, UserError) else repr(error)
        raise UserError(
            f"the configuration of '{source}' is damaged: {reason}; restore the file"
        ) from error
    model.preprocessing = preprocessing
    model.source = config.get("source")
    return model


def _options(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe, if it is one: no file of weights, no download, switches that are switches."""
    given = sorted(_NOT_TAKEN & recipe.keys())
    if given:
        raise ValueError(f"{given[0]} is no part of a recipe")
    for name, kind in _KINDS.items():
        value = recipe.get(name)
        if value is not None and type(value) is not kind:
            raise TypeError(f"{name} is {value!r}")
    return recipe


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if path.suffix == ".ckpt":
        content = read_file(path)
        if "scenewise" not in content:
            raise UserError(f"'{path}' is no checkpoint of Scenewise; give one that fit wrote")
        config, state = content["scenewise"], content.get("state_dict")
        if not isinstance(config, dict) or not isinstance(state, dict):
            raise UserError(f"'{path}' is damaged; fetch it again, or take an older checkpoint")
        prefix = "model."
        named = {str(k): v for k, v in state.items() if isinstance(v, Tensor)}
        return config, {k.removeprefix(prefix): named[k] for k in named if k.startswith(prefix)}
    if not (path / CONFIG).is_file() or not (path / WEIGHTS).is_file():
        raise UserError(
            f"no model in '{path}'; give a folder that holds {CONFIG} and {WEIGHTS}, a .ckpt, or a "
            "public checkpoint"
        )
    try:
        config = parse_json((path / CONFIG).read_bytes())
    except ValueError as error:
        raise UserError(f"'{path / CONFIG}' is no JSON: {error}; restore the file") from error
    if not isinstance(config, dict):
        raise UserError(f"'{path / CONFIG}' is no configuration of a model; restore the file")
    return config, read_file(path / WEIGHTS)


def _load_strictly(model: Segmenter, tensors: dict[str, Tensor], source: str | Path) -> None:
    _check_fit(model, tensors, source)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:  # sparse tensors, for example
        raise UserError(f"'{source}' holds other weights than numbers; fetch it again") from error


def _check_fit(model: Segmenter, tensors: dict[str, Tensor], source: str | Path) -> None:
    wanted = model.state_dict()
    missing = [k for k in wanted if k not in tensors]
    unknown = [k for k in tensors if k not in wanted]
    clashing = [k for k in wanted if k in tensors and tensors[k].shape != wanted[k].shape]
    faults = {"missing": missing, "unknown": unknown, "of another shape": clashing}
    told = [
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for what, keys in faults.items()
        if keys
    ]
    if told:
        raise UserError(
            f"'{source}' holds another network's weights: {'; '.join(told)}; load it with the "
            "network it was made for"
        )
