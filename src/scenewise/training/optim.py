"""The optimiser of a training and its poly learning-rate schedule."""

from typing import Any, Literal

from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

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
) -> Optimizer:
    """SGD or AdamW with two parameter groups: the backbone at ``lr``, the rest at a multiple of it.

    Args:
        name: "sgd" or "adamw".
        model: whose parameters are optimised.
        lr: learning rate of the backbone.
        head_multiplier: factor of the learning rate for all but the backbone.
        momentum: of SGD.
        weight_decay: on every parameter; by default 1e-4 for sgd and 0.01 for adamw.
        fused: use PyTorch's fused step where weights are not sharded, which it does not support.

    >>> from scenewise.models import create_model
    >>> model = create_model("fcn", num_classes=2, backbone="tiny")
    >>> optimizer = build_optimizer("sgd", model, lr=0.01)
    >>> [(group["name"], group["lr"]) for group in optimizer.param_groups]
    [('backbone', 0.01), ('head', 0.1)]
    """
    groups = model.parameter_groups(lr, head_multiplier)  # backbone, head
    fused = fused and not is_sharded(model)  # PyTorch has no fused step for DTensors
    if name == "adamw":
        decay = 0.01 if weight_decay is None else weight_decay
        return AdamW(groups, lr=lr, weight_decay=decay, fused=fused)
    decay = 1e-4 if weight_decay is None else weight_decay
    return SGD(groups, lr=lr, momentum=momentum, weight_decay=decay, fused=fused)


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
