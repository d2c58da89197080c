"""Resume with changed options: each one takes effect and is reported, or is refused by its name.

A checkpoint holds the settings of its training. What the position in an epoch, the order of the
images or the optimiser's state depend on cannot change within a run; everything else can.
"""

import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from scenewise.classes import Classes
from scenewise.data.module import SegmentationData
from scenewise.errors import UserError
from scenewise.training.checkpoint import ResumePoint
from scenewise.training.task import SegmentationTask

Settings = dict[str, Any]

_MODEL = {  # option of --model, and the attribute of the task that holds its value
    "optimizer": "optimizer_name",
    "lr": "lr",
    "momentum": "momentum",
    "weight_decay": "weight_decay",
    "head_multiplier": "head_multiplier",
    "layer_decay": "layer_decay",
    "gamma_rate": "gamma_rate",
    "power": "power",
    "floor": "floor",
    "warmup": "warmup",
    "loss": "loss",
    "class_weights": "class_weights",
    "ohem": "ohem",
    "unlabelled_threshold": "unlabelled_threshold",
    "unlabelled_weight": "unlabelled_weight",
    "protocol": "protocol",
    "quality": "quality",
    "eval_window": "eval_window",
    "freeze": "frozen",
}
_RECIPE = ("optimizer", "lr", "head_multiplier", "weight_decay", "warmup", "loss", "class_weights")
_TRAINER = (
    "max_epochs",
    "max_steps",
    "val_check_interval",
    "check_val_every_n_epoch",
    "limit_train_batches",
    "limit_val_batches",
    "overfit_batches",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "precision",
    "strategy",
)
_LENGTH = _TRAINER[:4]
_DEFAULT_LENGTH = {"max_epochs": None, "max_steps": -1}
# of one machine, or of no influence on the training
_NOT_DATA = {"root", "unlabelled", "num_workers", "eval_batch_size", "shuffle_buffer", "test_split"}


def settings(
    task: SegmentationTask,
    data: SegmentationData,
    options: Mapping[str, Any],
    *,
    processes: int,
    ema: float | None,
) -> Settings:
    """The settings of a training by their names on the command line, as plain values.

    Args:
        task: the network and how it is trained.
        data: after ``setup("fit")``.
        options: of the Trainer.
        processes: on all machines.
        ema: decay of the average of the weights.
    """
    names = inspect.signature(SegmentationData).parameters.keys() - _NOT_DATA
    train = data.dataset("train").names
    values = {
        **{f"model.{name}": _plain(getattr(task, place)) for name, place in _MODEL.items()},
        **{f"data.{name}": getattr(data, name) for name in sorted(names)},
        **{f"trainer.{name}": _plain(options[name]) for name in _TRAINER},
        "data.unlabelled": data.without_labels and data.without_labels.fingerprint,
        "ema": ema,
        "processes": processes,
        "images": len(train),
        "names": hashlib.sha256("\n".join(map(str, train)).encode()).hexdigest(),
    }
    plain: Settings = json.loads(json.dumps(values))  # lists, no tuples
    return plain


def adopt(point: ResumePoint, data: SegmentationData, options: dict[str, Any]) -> None:
    """Take from the checkpoint what was chosen for its training and is not given now."""
    saved = point.settings
    if data.batch_size is None:
        data.batch_size = saved.get("data.batch_size")
    if data.crop_size is None and "data.crop_size" in saved:
        data.crop_size = tuple(saved["data.crop_size"])
    options["precision"] = options["precision"] or saved.get("trainer.precision")
    if all(options[name] == value for name, value in _DEFAULT_LENGTH.items()):
        options |= {n: saved[f"trainer.{n}"] for n in _LENGTH if f"trainer.{n}" in saved}


def adopt_recipe(point: ResumePoint, given: Any) -> None:
    """Take from the checkpoint the options of ``--model`` that were chosen and are not given now.

    >>> from pathlib import Path
    >>> point = ResumePoint(Path("last.ckpt"), settings={"model.lr": 0.1, "model.warmup": 7})
    >>> given = {"lr": 0.2, "warmup": None}
    >>> adopt_recipe(point, given)
    >>> given
    {'lr': 0.2, 'warmup': 7}
    """
    for name in _RECIPE:
        if given.get(name) is None and f"model.{name}" in point.settings:
            given[name] = point.settings[f"model.{name}"]
            if name == "class_weights" and given[name] is None:
                given[name] = "even"


def refuse_other_data(point: ResumePoint, classes: Classes) -> None:
    """Refuse data whose classes are not those of the checkpoint, in the same order."""
    saved = list((point.config.get("classes") or {}).get("names", classes.names))
    for index, (before, now) in enumerate(zip(saved, classes.names, strict=False)):
        if before != now:
            raise UserError(
                f"the data calls class {index} '{now}' but '{point.path}' was trained with "
                f"'{before}'; give the data that it was trained on"
            )


def changes(point: ResumePoint, now: Settings) -> list[str]:
    """What differs from the settings in a checkpoint and takes effect, one text an option.

    Raises:
        UserError: a setting that cannot change within a run.

    >>> from pathlib import Path
    >>> point = ResumePoint(Path("last.ckpt"), settings={"model.lr": 0.1, "model.optimizer": "sgd"})
    >>> changes(point, {"model.lr": 0.2, "model.optimizer": "sgd"})
    ['--model.lr 0.2 (was 0.1)']
    >>> changes(point, {"model.lr": 0.2, "model.optimizer": "adamw"})
    Traceback (most recent call last):
    scenewise.errors.UserError: --model.optimizer is adamw but 'last.ckpt' was trained with sgd; ...
    """
    saved = point.settings
    different = {n: (now[n], saved[n]) for n in now if n in saved and saved[n] != now[n]}
    fixed = ("optimizer", "freeze", "layer_decay", "gamma_rate")
    for name in (*(f"model.{name}" for name in fixed), "trainer.accumulate_grad_batches"):
        if name in different:
            raise _refused(point, f"--{name}", *different[name])
    _check_batches(point, different)
    if "images" in different or "names" in different:
        raise _refused(point, "--data.root", f"{now['images']} images", _images(saved, now))
    if saved.get("data.unlabelled") is not None and now.get("data.unlabelled") is None:
        raise _refused(point, "--unlabelled", "not given", saved["data.unlabelled"])
    if saved.get("ema") is not None and now.get("ema") is None:
        raise _refused(point, "--ema", "not given", saved["ema"])
    _check_length(point, now)
    options = {"processes": "--trainer.devices"}
    return [
        f"{options.get(name, f'--{name}')} {_text(value)} (was {_text(before)})"
        for name, (value, before) in different.items()
    ]


def _check_batches(point: ResumePoint, different: dict[str, tuple[Any, Any]]) -> None:
    """A step must take as many images as before, in whatever number of processes."""
    saved, batch, processes = point.settings, "data.batch_size", "processes"
    after, before = (
        different.get(batch, (saved.get(batch, 1),) * 2)[k]
        * different.get(processes, (saved.get(processes, 1),) * 2)[k]
        for k in (0, 1)
    )
    if before == after:
        return
    name = f"--{batch}" if batch in different else "--trainer.devices"
    raise _refused(point, name, *different[batch if batch in different else processes])


def _check_length(point: ResumePoint, now: Settings) -> None:
    steps, epochs = now.get("trainer.max_steps", -1), now.get("trainer.max_epochs")
    for name, most, done in (
        ("max_steps", steps, point.steps),
        ("max_epochs", epochs, point.epoch),
    ):
        if most is not None and 0 <= most < done:
            raise UserError(
                f"--trainer.{name} is {most} but '{point.path}' has {done} behind it already; "
                "give a larger number"
            )


def _images(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    same = saved["images"] == now["images"]
    return f"{saved['images']} images" + (" of other names" if same else "")


def _refused(point: ResumePoint, option: str, now: Any, before: Any) -> UserError:
    return UserError(
        f"{option} is {_text(now)} but '{point.path}' was trained with {_text(before)}; resume "
        f"with that, or start a new run from its weights with --start {point.path}"
    )


def _plain(value: Any) -> Any:
    """``value`` as JSON can hold it; an object by the name of its class."""
    if isinstance(value, Tensor):
        return value.tolist()
    plain = value is None or isinstance(value, bool | int | float | str | list | tuple)
    return value if plain else type(value).__name__


def _text(value: Any) -> str:
    """``value`` as the command line takes it.

    >>> _text([32, 64]), _text(None)
    ('[32,64]', 'null')
    """
    return json.dumps(value, separators=(",", ":")).strip('"')
