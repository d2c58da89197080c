"""Classifiers: the layers of a network with one output for each class."""

import torch
from torch import nn

from scenewise.classes import Classes
from scenewise.errors import UserError

Classifier = nn.Conv2d | nn.Linear


def classifiers(model: nn.Module) -> dict[str, Classifier]:
    """The classifiers of a network by name, those of auxiliary heads included.

    Heads call them ``classify`` or ``classify_...``; of several layers in a row the last is the
    classifier. The layer ``presence`` predicts which classes an image shows.

    >>> head = nn.ModuleDict({"classify": nn.Sequential(nn.Dropout(), nn.Conv2d(8, 3, 1))})
    >>> classifiers(head)
    {'classify.1': Conv2d(8, 3, kernel_size=(1, 1), stride=(1, 1))}
    """
    last: dict[str, Classifier] = {}
    for name, module in model.named_modules():
        short = name.rpartition(".")[2]
        if short.startswith("classify") or short == "presence":
            layers = [
                (".".join(filter(None, (name, inner))), layer)
                for inner, layer in module.named_modules()
                if isinstance(layer, nn.Conv2d | nn.Linear)
            ]
            last |= dict(layers[-1:])
    return last


def kept_rows(old: Classes, new: Classes) -> dict[int, int]:
    """Id in ``new`` -> id in ``old`` of every class that both call by the same name.

    >>> street = Classes(("road", "sky"), ((1, 2, 3), (4, 5, 6)))
    >>> kept_rows(street, Classes(("sky", "ship"), ((1, 2, 3), (4, 5, 6))))
    {0: 1}
    """
    return {k: old.names.index(name) for k, name in enumerate(new.names) if name in old.names}


def replace_classifiers(model: nn.Module, old: Classes, new: Classes) -> None:
    """Give every classifier of ``model`` one output for each class of ``new``, in place.

    Rows of classes that ``old`` has under the same name are copied; the others are random, as
    PyTorch initialises a layer.

    Raises:
        UserError: no classifier found, or one whose outputs are not the classes ``old``.
    """
    layers = classifiers(model)
    if not layers or any(layer.weight.shape[0] != len(old) for layer in layers.values()):
        raise UserError(
            f"the classifiers for {len(old)} classes are not found in this network; build it "
            "again with the new classes"
        )
    kept = kept_rows(old, new)
    for name, layer in layers.items():
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, _resized(layer, kept, len(new)))


def _resized(layer: Classifier, kept: dict[int, int], outputs: int) -> Classifier:
    fresh: Classifier
    weight, bias = layer.weight, layer.bias is not None
    if isinstance(layer, nn.Linear):
        fresh = nn.Linear(layer.in_features, outputs, bias)
    else:
        size = (layer.kernel_size[0], layer.kernel_size[1])
        fresh = nn.Conv2d(layer.in_channels, outputs, size, bias=bias)
    fresh = fresh.to(weight.device, weight.dtype).train(layer.training)
    with torch.no_grad():
        for row, old_row in kept.items():
            fresh.weight[row] = weight[old_row]  # (C, 1, 1) or (C)
            if layer.bias is not None and fresh.bias is not None:
                fresh.bias[row] = layer.bias[old_row]
    return fresh
