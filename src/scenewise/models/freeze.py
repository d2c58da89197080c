"""Freezing: parts of a network that a training leaves as they are, batch-norm statistics too."""

from typing import Literal

from torch import nn

from scenewise.errors import UserError
from scenewise.models.backbone import Backbone, TinyBackbone
from scenewise.models.classifiers import classifiers
from scenewise.models.segmenter import Segmenter

Freeze = Literal["backbone", "all-but-classifier"] | int


def freeze(model: Segmenter, parts: Freeze) -> None:
    """Freeze the parameters of ``parts``, in place; see :func:`hold_statistics` for the rest.

    No gradients are computed for them, and no backward pass runs through layers before which
    nothing is trained: the whole backbone, or its first stages.

    Args:
        model: any network.
        parts: ``"backbone"``; ``"all-but-classifier"``, where the layers with one output for each
            class are trained alone; or a number of stages of the backbone, counted from the image,
            of which the first includes the stem.

    Raises:
        UserError: a backbone without so many stages.

    >>> from scenewise import create_model
    >>> model = create_model("fcn", num_classes=2, backbone="tiny")
    >>> freeze(model, "all-but-classifier")
    >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    ['head.classify.1.weight', 'head.classify.1.bias']
    """
    if parts == "all-but-classifier":
        model.requires_grad_(False)
        for layer in classifiers(model).values():
            layer.requires_grad_()
    elif parts == "backbone":
        model.backbone.requires_grad_(False)
    else:
        for parameter in _first_stages(model.backbone, parts):
            parameter.requires_grad_(False)


def hold_statistics(model: nn.Module) -> None:
    """Put all parts whose parameters are frozen into evaluation mode.

    Their batch norms use the running statistics and do not update them, and nothing is dropped.

    >>> layers = nn.Sequential(nn.BatchNorm2d(2).requires_grad_(False), nn.BatchNorm2d(2))
    >>> hold_statistics(layers)
    >>> [layer.training for layer in layers]
    [False, True]
    """
    if any(parameter.requires_grad for parameter in model.parameters()):
        for child in model.children():
            hold_statistics(child)
    elif any(True for _ in model.parameters()):  # a dropout alone goes with the layer after it
        model.eval()


def frozen_parameters(model: nn.Module) -> int:
    """How many parameters are frozen.

    >>> frozen_parameters(nn.Linear(3, 2).requires_grad_(False))
    8
    """
    return sum(p.numel() for p in model.parameters() if not p.requires_grad)


def _first_stages(backbone: nn.Module, count: int) -> list[nn.Parameter]:
    """The parameters of the first stages; those before the first feature map are in the first.

    timm and the tiny backbone register layers in the order in which they run.
    """
    stages = _stage_names(backbone)
    if not 1 <= count <= len(stages):
        numbers = f"1 to {len(stages)}" if stages else "no number"
        raise UserError(
            f"--model.freeze is {count}, but this backbone takes {numbers}; give that, 'backbone' "
            "or 'all-but-classifier'"
        )
    named = list(backbone.named_parameters())
    starts = tuple(f"{stage}." for stage in stages[count - 1])  # either spelling
    within = [index for index, (name, _) in enumerate(named) if name.startswith(starts)]
    return [parameter for _, parameter in named[: within[-1] + 1]]


def _stage_names(backbone: nn.Module) -> list[tuple[str, ...]]:
    """The module that ends each stage, in the spellings that timm's wrappers give it.

    >>> _stage_names(TinyBackbone())
    [('stages.0',), ('stages.1',), ('stages.2',)]
    """
    if isinstance(backbone, TinyBackbone):
        return [(f"stages.{index}",) for index in range(len(backbone.stages))]
    if not isinstance(backbone, Backbone):
        return []
    ends = backbone.net.feature_info.module_name()[-4:]
    spellings: list[tuple[str, ...]] = [
        (f"net.{end}", f"net.{end.replace('.', '_')}", f"net.model.{end}") for end in ends
    ]
    names = [name for name, _ in backbone.named_parameters()]
    if not all(any(n.startswith(f"{s}.") for n in names for s in each) for each in spellings):
        return []  # HRNet's branches have no such modules
    return spellings
