"""What a training starts from: a new network or a trained one, and defaults that depend on it."""

import logging
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.inference.protocols import PROTOCOLS
from scenewise.models.build import create_model
from scenewise.models.checkpoints import load_model
from scenewise.models.segmenter import Segmenter

_log = logging.getLogger(__name__)


def default_backbone() -> str:
    """resnet50 where there is a CUDA GPU, else resnet18, which a CPU trains in hours."""
    return "resnet50" if torch.cuda.is_available() else "resnet18"


def default_optimizer(model: Segmenter) -> Literal["sgd", "adamw"]:
    """adamw for backbones with layer norm (transformers, ConvNeXt), sgd for the others.

    >>> default_optimizer(create_model("fcn", num_classes=2, backbone="tiny"))
    'sgd'
    """
    normed = any(isinstance(module, nn.LayerNorm) for module in model.backbone.modules())
    return "adamw" if normed else "sgd"


def default_lr(optimizer: str, model: Segmenter) -> float:
    """1e-4 for adamw; for sgd 0.01 divided by the sum of the weights of the losses.

    DANet's author used 0.01 with one loss and 0.003 with three.

    >>> model = create_model("danet", num_classes=2, backbone="tiny", pretrained=False)
    >>> round(default_lr("sgd", model), 4)
    0.0033
    """
    return 1e-4 if optimizer == "adamw" else 0.01 / (1 + sum(model.loss_weights.values()))


def known_protocol(name: str) -> str:
    """``name``, if there is such a protocol, else a :class:`UserError`.

    >>> known_protocol("mmseg_whole")
    'mmseg_whole'
    """
    if name not in PROTOCOLS:
        raise UserError(f"no protocol '{name}'; choose one of {', '.join(PROTOCOLS)}")
    return name


def new_network(network: str, *, pretrained: bool | None, **options: Any) -> Segmenter:
    """``create_model``; with ``pretrained=None`` from ImageNet weights if they can be had."""
    if pretrained is not None or options["backbone_weights"] is not None:
        return create_model(network, pretrained=bool(pretrained), **options)
    try:
        return create_model(network, pretrained=True, **options)
    except UserError as error:
        model = create_model(network, pretrained=False, **options)  # raises if that was not why
        _log.warning("%s; the backbone starts from random weights", error)
        return model


def trained_network(path: str, classes: Classes) -> Segmenter:
    """The model in ``path``, checked against the classes of the data."""
    model = load_model(path).train()
    if len(model.classes) != len(classes):
        raise UserError(
            f"the model in '{path}' has {len(model.classes)} classes but the data has "
            f"{len(classes)}; give data with the classes that it was trained on"
        )
    other = [i for i, name in enumerate(classes.names) if name != model.classes.names[i]]
    if other:
        _log.warning(
            "the model in '%s' calls class %d '%s', the data '%s' (%d classes differ); scores mean "
            "nothing unless these are the same classes",
            path,
            other[0],
            model.classes.names[other[0]],
            classes.names[other[0]],
            len(other),
        )
    return model


def describe(config: dict[str, Any]) -> str:
    """A model in a few words, from its ``config.json``.

    >>> describe(create_model("fcn", num_classes=2, backbone="tiny").config())
    'fcn with backbone tiny and 2 classes'
    """
    recipe = config["model"] or {"name": "a network of own parts", "backbone": "?"}
    count = len(config["classes"]["names"])
    return f"{recipe['name']} with backbone {recipe['backbone']} and {count} classes"


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """The name and shape of every weight, which tell networks apart.

    >>> shapes_of({"gamma": torch.zeros(1)})
    {'gamma': torch.Size([1])}
    """
    return {name: value.shape for name, value in weights.items()}


def refuse_another(
    checkpoint: dict[str, Any], model: Segmenter, wanted: dict[str, torch.Size]
) -> None:
    """Raise a :class:`UserError` unless the checkpoint has the ``wanted`` weights of ``model``."""
    if shapes_of(checkpoint["state_dict"]) == wanted:
        return
    there, here = checkpoint.get("scenewise"), model.config()
    raise UserError(
        f"the checkpoint holds {describe(there) if there else 'another model'} but this is "
        f"{describe(here)}; give the --config that it was trained with"
    )
