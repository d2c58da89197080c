"""The optimiser of a training and its poly learning-rate schedule."""

import math
from typing import Any, Literal

import torch
from timm import optim as timm_optim
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from scenewise.errors import UserError
from scenewise.models.segmenter import Segmenter
from scenewise.training.distributed import is_sharded

OptimizerName = Literal["sgd", "adamw"]


def build_optimizer(
    name: OptimizerName,
    model: Segmenter,
    *,
    lr: float,
    head_multiplier: float = 10.0,
    momentum: float = 0.9,
    weight_decay: float | None = None,
    fused: bool = True,
    groups: list[dict[str, Any]] | None = None,
) -> Optimizer:
    """SGD or AdamW with two parameter groups: the backbone at ``lr``, the rest at a multiple of it.

    Weights decay in norms and biases too, as the published SGD recipes have it; at AdamW's 5e-4 and
    0.01 the decay of a thousand steps is half a percent, so it does not matter there.

    Args:
        name: "sgd" or "adamw".
        model: whose parameters are optimised.
        lr: learning rate of the backbone.
        head_multiplier: factor of the learning rate for all but the backbone.
        momentum: of SGD.
        weight_decay: on every parameter; by default 1e-4 for sgd and 0.01 for adamw.
        fused: use PyTorch's fused step where weights are not sharded, which it does not support.
        groups: other groups, from :func:`parameter_groups`.

    >>> from scenewise.models import create_model
    >>> model = create_model("fcn", num_classes=2, backbone="tiny")
    >>> optimizer = build_optimizer("sgd", model, lr=0.01)
    >>> [(group["name"], group["lr"]) for group in optimizer.param_groups]
    [('backbone', 0.01), ('head', 0.1)]
    """
    if groups is None:
        groups = model.parameter_groups(lr, head_multiplier)  # backbone, head
    fused = fused and not is_sharded(model)  # PyTorch has no fused step for DTensors
    if name == "adamw":
        decay = 0.01 if weight_decay is None else weight_decay
        return AdamW(groups, lr=lr, weight_decay=decay, fused=fused)
    decay = 1e-4 if weight_decay is None else weight_decay
    return SGD(groups, lr=lr, momentum=momentum, weight_decay=decay, fused=fused)


def parameter_groups(
    model: Segmenter,
    lr: float,
    head_multiplier: float,
    *,
    layer_decay: float | None = None,
    gamma_rate: float = 1.0,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """The parameters that are trained, with their learning rates.

    Args:
        model: whose parameters are optimised.
        lr: learning rate of the backbone.
        head_multiplier: factor of the learning rate for all but the backbone.
        layer_decay: factor from one layer of a vision transformer to the one before it.
        gamma_rate: factor of the head's learning rate for the scales of attention blocks.
        weight_decay: with ``layer_decay``, of the weights that decay.

    Raises:
        UserError: the network has no such layers or scales.

    >>> from scenewise.models import create_model
    >>> model = create_model("danet", num_classes=2, backbone="tiny", pretrained=False)
    >>> groups = parameter_groups(model, 0.1, 2, gamma_rate=10)
    >>> [(group["name"], group["lr"]) for group in groups]
    [('backbone', 0.1), ('head', 0.2), ('gamma', 2.0)]
    """
    if layer_decay is None:
        groups = model.parameter_groups(lr, head_multiplier)
    else:
        groups = _layer_groups(model, lr, head_multiplier, layer_decay, weight_decay)
    return (
        groups
        if gamma_rate == 1
        else _gamma_group(groups, model, lr * head_multiplier * gamma_rate)
    )


def start_gammas(model: nn.Module, value: float) -> None:
    """Set the scales of the attention blocks.

    Raises:
        UserError: the network has none, or the value is not finite.
    """
    scales = gammas(model)
    if not scales or not math.isfinite(value):
        why = "give a finite number" if scales else "the network has no gamma; leave it out"
        raise UserError(f"--model.gamma_start is {value}: {why}")
    with torch.no_grad():
        for scale in scales.values():
            scale.fill_(value)


def _layer_groups(
    model: Segmenter, lr: float, head_multiplier: float, layer_decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Layer-wise decay of the learning rate in the backbone, as BEiT (Bao et al., ICLR 2022).

    The last layer has ``lr`` and every layer before it ``layer_decay`` times that of
    the next; weights of one dimension (norms, biases) do not decay. The layers are those of timm's
    ``param_groups_layer_decay``, so it takes the transformers that timm returns whole.
    """
    net: Any = getattr(getattr(model.backbone, "net", None), "model", None)
    if not hasattr(net, "group_matcher"):
        raise UserError(
            "--model.layer_decay needs a backbone that is a plain vision transformer, such as "
            "vit_small_patch14_dinov2; leave it out"
        )
    whole = timm_optim.param_groups_layer_decay(  # type: ignore[attr-defined]
        net, weight_decay=weight_decay, layer_decay=layer_decay
    )
    groups = [
        {
            "params": group["params"],
            "lr": lr * group["lr_scale"],
            "weight_decay": group["weight_decay"],
            "name": f"backbone_{index}",
        }
        for index, group in enumerate(whole)
    ]
    head = [g for g in model.parameter_groups(lr, head_multiplier) if g["name"] == "head"]
    return [*groups, *head]


def gammas(model: nn.Module) -> dict[str, nn.Parameter]:
    """The scales of attention blocks, which start at 0 in publications, by name.

    >>> from scenewise.models import create_model
    >>> list(gammas(create_model("danet", num_classes=2, backbone="tiny", pretrained=False)))
    ['head.position.1.gamma', 'head.channel.1.gamma']
    """
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.endswith("gamma") and parameter.numel() == 1
    }


def _gamma_group(groups: list[dict[str, Any]], model: nn.Module, lr: float) -> list[dict[str, Any]]:
    """``groups`` with the gammas in a group of their own.

    A gamma has one number for a whole block; at the rate of the other weights it hardly leaves its
    start in a short training.
    """
    own = [p for p in gammas(model).values() if p.requires_grad]
    if not own:
        raise UserError("--model.gamma_rate: the network has no gamma to train; leave it out")
    ids = {id(p) for p in own}
    rest = [
        group | {"params": [p for p in group["params"] if id(p) not in ids]} for group in groups
    ]
    return [*(g for g in rest if g["params"]), {"params": own, "lr": lr, "name": "gamma"}]


def poly(
    step: int, total: int, *, power: float = 0.9, floor: float = 0.0, warmup: int = 0
) -> float:
    """The factor (1 - floor) (1 - t/T)^power + floor of the learning rate at step t of T.

    DANet and most networks of its time use power 0.9, no floor and no warm-up; mmsegmentation adds
    a floor. During a warm-up the factor is also multiplied by a linear ramp from 1 / warmup to 1.

    Args:
        step: t, the number of steps already done.
        total: T, the number of steps in all; after them the factor stays at ``floor``.
        power: of the polynomial.
        floor: the factor at the end, 0..1.
        warmup: number of warm-up steps.

    >>> [round(poly(t, 4), 3) for t in range(5)]
    [1.0, 0.772, 0.536, 0.287, 0.0]
    >>> poly(100, 100, floor=0.25)
    0.25
    """
    remaining = max(0.0, 1.0 - step / total)  # after the last step 0, never negative
    ramp = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0  # the first step is not 0
    return float(ramp * ((1.0 - floor) * remaining**power + floor))


def poly_schedule(
    optimizer: Optimizer,
    total: int,
    *,
    power: float = 0.9,
    floor: float = 0.0,
    warmup: int = 0,
) -> LambdaLR:
    """:func:`poly` on every parameter group of ``optimizer``; step it once for each batch."""
    return LambdaLR(
        optimizer, lambda step: poly(step, total, power=power, floor=floor, warmup=warmup)
    )


def group_options(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Learning rate, momentum and the other options of every parameter group."""
    return [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]


def restart_schedule(schedule: LambdaLR, options: list[dict[str, Any]]) -> None:
    """Give the groups these options, and the learning rates of the step that is next.

    A checkpoint brings the options of its training along; with unchanged options this changes
    nothing.

    >>> from scenewise.models import create_model
    >>> model = create_model("fcn", num_classes=2, backbone="tiny")
    >>> optimizer = build_optimizer("sgd", model, lr=0.1)
    >>> schedule = poly_schedule(optimizer, 100, floor=1.0)
    >>> options = [group | {"initial_lr": 0.3} for group in group_options(optimizer)]
    >>> restart_schedule(schedule, options)
    >>> [group["lr"] for group in optimizer.param_groups]
    [0.3, 0.3]
    """
    optimizer, step = schedule.optimizer, schedule.last_epoch
    for group, given, factor in zip(
        optimizer.param_groups, options, schedule.lr_lambdas, strict=False
    ):
        group |= given
        group["lr"] = group["initial_lr"] * factor(step)
    schedule.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
    schedule._last_lr = [group["lr"] for group in optimizer.param_groups]
