"""``load_model``: model folders, training checkpoints, and public checkpoints to convert."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.files import parse_json
from scenewise.models.build import create_model
from scenewise.models.convert.key_mapping import convert, first_keys
from scenewise.models.file_formats import describe_folder, describe_missing
from scenewise.models.hub import fetch, is_hub_name
from scenewise.models.preprocessing import Preprocessing
from scenewise.models.safe_load import read_file
from scenewise.models.segmenter import CONFIG, WEIGHTS, Segmenter
from scenewise.models.thresholds import check_thresholds

# Arguments of create_model that config.json may not set, and the types of those that it may.
_FORBIDDEN = {"classes", "num_classes", "pretrained", "backbone_weights"}
_TYPES = {
    "name": str,
    "variant": str,
    "backbone": str,
    "output_stride": int,
    "in_channels": int,
} | dict.fromkeys(
    ("contract_dilation", "ceil_pool", "dilate_second", "auxiliary", "align_corners"), bool
)


def load_model(path: str | Path, into: Segmenter | None = None) -> Segmenter:
    """Load a model from a folder of :meth:`Segmenter.save_pretrained`, a run folder or a ``.ckpt``.

    A public checkpoint of another project (``.pth``, ``.pth.tar``, ``.pt``, ``.safetensors``) is
    converted with the released settings; :func:`scenewise.models.convert.convert` has options.
    ``hf-hub:owner/name[@revision]`` is fetched from the Hugging Face hub, see
    :func:`scenewise.models.hub.fetch`.

    Loading is strict: missing, unknown and misshapen tensors are errors. Nothing in the file is
    executed.

    Args:
        path: the folder, the checkpoint file, or the name on the hub.
        into: a network of custom parts to load the weights into.

    Returns:
        The model, in evaluation mode.

    Raises:
        UserError: no model found, damaged, or saved from another network.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> create_model("fcn", num_classes=3, backbone="tiny").save_pretrained(folder)
    >>> load_model(folder).classes.names
    ('class_0', 'class_1', 'class_2')
    """
    file = path = locate(path)
    content = read_file(file) if file.suffix == ".ckpt" else {}
    if file.is_file() and "scenewise" not in content:  # other projects use that suffix too
        converted = convert(path)
        if into is None:
            return converted
        _load_strictly(into, converted.state_dict(), path)
        return into.eval()
    config, tensors = _of_training(content, file) if content else _of_folder(file)
    if into is None:
        with torch.device("meta"):  # no memory is taken: the config is untrusted
            _check_fit(_build(config, path), tensors, path)  # before any weight is allocated
    model = into if into is not None else _build(config, path)
    _load_strictly(model, tensors, path)
    return model.eval()


def locate(source: str | Path) -> Path:
    """The path of a model; one that is named on the hub is fetched first.

    Raises:
        UserError: as :func:`scenewise.models.hub.fetch`.

    >>> locate("runs/danet").name
    'danet'
    """
    return fetch(str(source), (CONFIG, WEIGHTS)) if is_hub_name(source) else Path(source)


def _build(config: dict[str, Any], source: str | Path) -> Segmenter:
    """The network that :meth:`Segmenter.config` describes, with random weights."""
    recipe = config.get("model")
    if recipe is None:
        raise UserError(
            f"'{source}' was saved from a network with custom parts; build it and call "
            "load_model(path, into=network)"
        )
    try:
        classes = Classes.from_dict(config["classes"])
        preprocessing = Preprocessing.from_dict(config["preprocessing"])
        thresholds = check_thresholds(config.get("thresholds", {}), classes)
        model = create_model(**_options(recipe), classes=classes, pretrained=False)
    except Exception as error:  # odd values raise anything in a network
        reason = error if isinstance(error, UserError) else repr(error)
        raise UserError(
            f"the configuration of '{source}' is damaged: {reason}; restore the file"
        ) from error
    _check_channels(preprocessing, recipe.get("in_channels", 3), source)
    model.preprocessing = preprocessing
    model.source, model.thresholds = config.get("source"), thresholds
    return model


def _check_channels(preprocessing: Preprocessing, channels: int, source: str | Path) -> None:
    if len(preprocessing.mean) != channels:
        raise UserError(
            f"the configuration of '{source}' is damaged: it normalises "
            f"{len(preprocessing.mean)} channels for a network of {channels}; restore the file"
        )


def _options(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe, checked: no file of weights, no download, values of the right types."""
    forbidden = sorted(_FORBIDDEN & recipe.keys())
    if forbidden:
        raise ValueError(f"{forbidden[0]} is not allowed in a recipe")
    for name, expected in _TYPES.items():
        value = recipe.get(name)
        if value is not None and type(value) is not expected:  # bool passes isinstance for int
            raise TypeError(f"{name} is {value!r}")
    return recipe


def _of_training(content: dict[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config, state = content["scenewise"], content.get("state_dict")
    if not isinstance(config, dict) or not isinstance(state, dict):
        raise UserError(f"'{path}' is damaged; fetch it again, or take an older checkpoint")
    prefix = "model."  # the task's attribute; its other tensors are not the network's
    named = {str(k): v for k, v in state.items() if isinstance(v, Tensor)}
    return config, {k.removeprefix(prefix): named[k] for k in named if k.startswith(prefix)}


def _of_folder(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    what = describe_folder(path)
    if what is not None:
        raise UserError(f"'{path}' is {what}")
    if not (path / CONFIG).is_file() or not (path / WEIGHTS).is_file():
        missing = (
            f"no model in '{path}'; give a folder that holds {CONFIG} and {WEIGHTS}, a .ckpt, or a "
            "public checkpoint"
        )
        raise UserError(describe_missing(path) or missing)
    try:
        config = parse_json((path / CONFIG).read_bytes())
    except ValueError as error:
        raise UserError(
            f"'{path / CONFIG}' is not valid JSON: {error}; restore the file"
        ) from error
    if not isinstance(config, dict):
        raise UserError(f"'{path / CONFIG}' is not a model configuration; restore the file")
    return config, read_file(path / WEIGHTS)


def _load_strictly(model: Segmenter, tensors: dict[str, Tensor], source: str | Path) -> None:
    _check_fit(model, tensors, source)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:  # sparse tensors, for example
        raise UserError(f"'{source}' holds tensors of unsupported types; fetch it again") from error


def _check_fit(model: Segmenter, tensors: dict[str, Tensor], source: str | Path) -> None:
    state = model.state_dict()
    missing = [k for k in state if k not in tensors]
    unknown = [k for k in tensors if k not in state]
    misshapen = [k for k in state if k in tensors and tensors[k].shape != state[k].shape]
    faults = {"missing": missing, "unknown": unknown, "of another shape": misshapen}
    reasons = [f"{len(keys)} {what} ({first_keys(keys)})" for what, keys in faults.items() if keys]
    if reasons:
        raise UserError(
            f"'{source}' holds another network's weights: {'; '.join(reasons)}; load it with the "
            "network it was made for"
        )
