"""Models on disk: a folder with ``config.json`` and ``model.safetensors``."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

import scenewise
from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.files import atomic_write, write_json
from scenewise.models.convert import convert
from scenewise.models.segmenter import Preprocessing, Segmenter
from scenewise.models.weights import read_file
from scenewise.models.zoo import create_model

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def save_model(model: Segmenter, folder: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` into ``folder``, each whole or not at all."""
    target = Path(folder)
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    with atomic_write(target / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    write_json(target / CONFIG, model_config(model))


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
    model = into if into is not None else build_model(config, path)
    _load_strictly(model, tensors, path)
    return model.eval()


def model_config(model: Segmenter) -> dict[str, Any]:
    """What must travel with the weights, JSON-able."""
    config = {
        "scenewise": scenewise.__version__,
        "model": model.recipe,
        "classes": model.classes.to_dict(),
        "preprocessing": model.preprocessing.to_dict(),
    }
    return config if model.source is None else {**config, "source": model.source}


def build_model(config: dict[str, Any], source: str | Path) -> Segmenter:
    """The network that :func:`model_config` describes, with random weights."""
    recipe = config.get("model")
    if recipe is None:
        raise UserError(
            f"'{source}' was saved from a network of its author's own parts; build it and call "
            "load_model(path, into=network)"
        )
    try:
        classes = Classes.from_dict(config["classes"])
        preprocessing = Preprocessing.from_dict(config["preprocessing"])
        options = {**recipe, "classes": classes, "pretrained": False}
        model = create_model(options.pop("name"), **options)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the configuration of '{source}' is damaged: {error!r}") from error
    model.preprocessing = preprocessing
    model.source = config.get("source")
    return model


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if path.suffix == ".ckpt":
        content = read_file(path)
        if "scenewise" not in content:
            raise UserError(f"'{path}' is no checkpoint of Scenewise; give one that fit wrote")
        prefix = "model."
        state = content["state_dict"]
        return content["scenewise"], {
            k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)
        }
    if not (path / CONFIG).is_file() or not (path / WEIGHTS).is_file():
        raise UserError(
            f"no model in '{path}'; give a folder that holds {CONFIG} and {WEIGHTS}, a .ckpt, or a "
            "public checkpoint"
        )
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"'{path / CONFIG}' is no JSON: {error}; restore the file") from error
    if not isinstance(config, dict):
        raise UserError(f"'{path / CONFIG}' is no configuration of a model; restore the file")
    return config, read_file(path / WEIGHTS)


def _load_strictly(model: Segmenter, tensors: dict[str, Tensor], source: str | Path) -> None:
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
    model.load_state_dict(tensors)
