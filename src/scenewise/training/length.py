"""How long a training is: epochs, steps and validations from the data, or from a time budget."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from scenewise.data.module import SegmentationData
from scenewise.errors import UserError
from scenewise.memory import free_bytes
from scenewise.training.callbacks.progress import duration
from scenewise.training.forecast import Forecaster, Plan, limited
from scenewise.training.task import SegmentationTask

DEFAULT_BUDGET = "1h"  # of a training on own images without a GPU
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_FEWEST_STEPS = 10
_EPOCHS = {True: 240, False: 40}  # with a GPU, as in the DANet paper; without one
_MOST_STEPS = {True: 40_000, False: 1_000}
_VALIDATIONS = 10
_VALIDATION_SHARE = 0.25  # of a budget, at most


class Length(NamedTuple):
    """What was chosen, and why.

    Attributes:
        options: arguments for Lightning's Trainer.
        lines: to print.
    """

    options: dict[str, Any]
    lines: list[str]


def choose_length(
    task: SegmentationTask,
    data: SegmentationData,
    options: Mapping[str, Any],
    *,
    budget: str | None,
    gpus: int,
    processes: int,
) -> Length:
    """How long to train, how often to validate and to log, where the user has not chosen.

    Without a GPU a training on images of one's own takes at most an hour, as a few steps measure
    it; the steps are then fixed, so that the schedule and a resume depend on no clock.

    Args:
        task: with the network that will be trained; it keeps what was measured.
        data: of the training; it is set up here.
        options: of the Trainer, with a value for each.
        budget: a duration such as "30m", or None.
        gpus: that train.
        processes: that train, on all machines.

    Raises:
        UserError: a budget that is invalid, contradicts another length or is too short.
    """
    data.setup("fit")
    given = [n for n in ("max_epochs", "max_steps", "max_time") if options[n] not in (None, -1)]
    if budget is not None:
        _refuse_budget(budget, given, processes)
    batches = batches_per_epoch(data, processes)
    chosen = _length_from_data(
        batches,
        gpu=gpus > 0,
        max_epochs=options["max_epochs"],
        max_steps=options["max_steps"],
        accumulate=options["accumulate_grad_batches"],
    )
    own_images = data.source is not None and not gpus and processes == 1 and not given
    lines: list[str] = []
    if budget is not None or own_images:
        epochs = _EPOCHS[gpus > 0 or budget is not None]
        measured = _measure(task, data, options, batches, torch.device(_device(options, gpus)))
        chosen, lines = measured.fill(budget or DEFAULT_BUDGET, epochs)
    if options["val_check_interval"] is not None or options["check_val_every_n_epoch"] != 1:
        chosen.pop("val_check_interval", None)
        chosen.pop("check_val_every_n_epoch", None)
    if options["log_every_n_steps"] is None:
        chosen["log_every_n_steps"] = max(1, min(10, batches // 4))
    return Length(chosen, lines)


def batches_per_epoch(data: SegmentationData, processes: int) -> int:
    """How many batches an epoch each process has."""
    return math.ceil(len(data.train_dataloader()) / processes)


def planned_steps(data: SegmentationData, options: Mapping[str, Any], processes: int) -> int:
    """The optimiser's steps in all, from the limits among Lightning's options."""
    batches = limited(batches_per_epoch(data, processes), options["limit_train_batches"])
    epochs, most = options["max_epochs"], options["max_steps"]
    steps = math.ceil(batches / options["accumulate_grad_batches"])
    total = math.inf if epochs in (None, -1) else epochs * steps
    total = min(total, most) if most >= 0 else total
    return steps if math.isinf(total) else int(total)


def seconds_of(budget: str) -> int:
    """The seconds of a duration.

    Raises:
        UserError: it is invalid.

    >>> seconds_of("30m"), seconds_of("1h30m"), seconds_of("90s")
    (1800, 5400, 90)
    """
    match = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", budget.strip().lower())
    parts = match.groups() if match else ()
    seconds = sum(int(n or 0) * u for n, u in zip(parts, _UNITS.values(), strict=False))
    if not seconds:
        raise UserError(f"--budget is '{budget}'; give a duration such as 30m, 2h or 1h30m")
    return seconds


def _refuse_budget(budget: str, given: list[str], processes: int) -> None:
    seconds_of(budget)
    if given:
        raise UserError(
            f"--budget and --trainer.{given[0]} both set the length of the training; leave one out"
        )
    if processes > 1:
        raise UserError(
            "--budget measures the steps of one process, but there are "
            f"{processes}; give --trainer.max_steps"
        )


class Measured(NamedTuple):
    """What a training costs on this machine.

    Attributes:
        step: seconds of a step of the optimiser, with data loading.
        validation: seconds of a validation.
        steps: of an epoch.
        accumulate: batches in a step.
        caching: seconds before the first step, to compute features.
    """

    step: float
    validation: float
    steps: int
    accumulate: int
    caching: float = 0.0

    def fill(self, budget: str, epochs: int) -> tuple[dict[str, Any], list[str]]:
        """The arguments of Lightning's Trainer for as many steps as fit, at most ``epochs``.

        There are ten validations, or fewer where they would take more than a quarter of the time.

        Raises:
            UserError: fewer than ten steps fit.

        >>> chosen, lines = Measured(1.5, 12.0, 91, 1).fill("1h", 40)
        >>> chosen
        {'max_steps': 2320, 'val_check_interval': 232, 'check_val_every_n_epoch': None}
        >>> lines
        ['budget 1h: 2320 steps of 1.5 s (25.5 epochs) and 10 validations of 12 s']
        """
        seconds, line = seconds_of(budget) - self.caching, f"budget {budget}: "
        room = min(_VALIDATION_SHARE * seconds, seconds - _FEWEST_STEPS * self.step)
        count = max(1, min(_VALIDATIONS, int(room / max(self.validation, 1e-9))))
        steps = int((seconds - count * self.validation) / self.step)
        if steps < _FEWEST_STEPS:
            least = math.ceil((self.caching + _FEWEST_STEPS * self.step + self.validation) / 60)
            raise UserError(
                f"--budget {budget} is too short: a step takes {self.step:.2g} s and a validation "
                f"{self.validation:.2g} s; give {least}m or more, or a smaller --data.crop_size"
            )
        steps = min(steps, epochs * self.steps)
        count = min(count, steps)
        steps -= steps % count  # so that the last step is validated
        line += f"{steps} steps of {self.step:.2g} s ({steps / self.steps:.1f} epochs) and "
        line += f"{count} validation{'s' * (count > 1)} of {self.validation:.2g} s"
        line += f", after {self.caching:.2g} s for features" if self.caching else ""
        interval = steps // count * self.accumulate  # Lightning counts batches here
        chosen = {"max_steps": steps, "val_check_interval": interval}
        return {**chosen, "check_val_every_n_epoch": None}, [line, *self._warning(steps, budget)]

    def _warning(self, steps: int, budget: str) -> list[str]:
        if steps >= self.steps:
            return []
        return [
            f"WARNING: {budget} is too short for one epoch of {self.steps} steps "
            f"({duration(self.steps * self.step)}), so some images are never seen: give a longer "
            "--budget, a smaller --data.crop_size or --model.output_stride 32"
        ]


def _measure(
    task: SegmentationTask,
    data: SegmentationData,
    options: Mapping[str, Any],
    batches: int,
    device: torch.device,
) -> Measured:
    """Time a few real steps and the rest of a training on ``device``."""
    mixed = str(options["precision"]).startswith(("16", "bf16"))
    batches = limited(batches, options["limit_train_batches"])
    images = limited(len(data.dataset("val")), options["limit_val_batches"])
    forecaster = task.forecaster = Forecaster(
        task.model, data, device, Plan(batches, _VALIDATIONS, images, mixed)
    )
    forecaster.time_whole_step()
    cost = forecaster.forecast(forecaster.choose_window(free_bytes(device)))
    accumulate = options["accumulate_grad_batches"]
    step = cost.training / batches * accumulate
    steps = math.ceil(batches / accumulate)
    caching = forecaster.caching_seconds(_EPOCHS[True])
    return Measured(step, cost.validation / _VALIDATIONS, steps, accumulate, caching)


def _device(options: Mapping[str, Any], gpus: int) -> str:
    """The type of the device that trains."""
    if gpus:
        return "cuda"
    apple = options["accelerator"] in ("auto", "gpu", "mps") and torch.backends.mps.is_available()
    return "mps" if apple else "cpu"


def _length_from_data(
    batches: int, *, gpu: bool, max_epochs: int | None, max_steps: int, accumulate: int = 1
) -> dict[str, Any]:
    """How long to train and how often to validate, where the user has not chosen.

    Neither epochs nor steps given: 240 epochs as in the DANet paper, but at most 40,000 steps, on a
    GPU; 40 epochs, but at most 1,000 steps, without one; at least one epoch; a validation in
    every epoch, or at most 40 in all. Steps given: about ten validations, the last at the end.

    Args:
        batches: in one epoch of one device.
        gpu: whether the training runs on one.
        max_epochs: given by the user, or None.
        max_steps: given by the user, or -1.
        accumulate: batches in one step of the optimiser.

    Returns:
        Arguments for Lightning's Trainer.

    >>> _length_from_data(46, gpu=True, max_epochs=None, max_steps=-1)
    {'max_epochs': 240, 'check_val_every_n_epoch': 6}
    >>> _length_from_data(46, gpu=False, max_epochs=None, max_steps=250)
    {'val_check_interval': 25, 'check_val_every_n_epoch': None}
    """
    if max_steps > 0 and max_epochs is None:
        interval = _validation_interval(max_steps) * accumulate  # Lightning counts batches here
        return {"val_check_interval": interval, "check_val_every_n_epoch": None}
    if max_epochs is not None or max_steps == 0:
        return {}
    steps = math.ceil(batches / accumulate)  # of the optimiser, an epoch
    epochs = max(1, min(_EPOCHS[gpu], round(_MOST_STEPS[gpu] / steps)))
    every = math.ceil(epochs / 40)  # at most 40 validations
    return {"max_epochs": math.ceil(epochs / every) * every, "check_val_every_n_epoch": every}


def _validation_interval(steps: int) -> int:
    """The divisor of ``steps`` nearest to a tenth of it, so that the last step is validated.

    At least a twentieth, so that a prime number of steps is not validated after each.

    >>> _validation_interval(250), _validation_interval(24), _validation_interval(251)
    (25, 2, 251)
    """
    divisors = [n for n in range(1, steps + 1) if steps % n == 0 and n >= steps / 20]
    return min(divisors, key=lambda n: abs(n - steps / 10))
