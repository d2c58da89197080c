"""Progress of a training: one bar over all steps, a line at each validation, the time that is left.

>>> duration(20), duration(300), duration(20000)
('20 seconds', '5 minutes', '5.6 hours')
"""

import math
import statistics
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.trainer.states import TrainerFn

from scenewise.memory import peak_bytes

_MEASURED = 20  # batches after which what was measured replaces the forecast
_WARM_UP = 5  # of them, slower than the rest
_REFRESH = 0.3  # seconds between two updates of the bar, each of which waits for the device


def duration(seconds: float) -> str:
    """A duration in words."""
    if seconds < 90:
        return f"{math.ceil(seconds)} seconds"
    if seconds < 5400:  # an hour and a half
        return f"{round(seconds / 60)} minutes"
    if seconds < 2 * 86400:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 86400:.1f} days"


class TrainingBar(TQDMProgressBar):
    """One bar over the whole training, in optimiser steps, with the time that is left.

    Lightning's own bar starts again in every epoch. That of a validation disappears at its end.
    """

    def __init__(self) -> None:
        super().__init__()
        self._refreshed = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar, from the step where the training is resumed."""
        bar = self.train_progress_bar = self.init_train_tqdm()
        bar.set_description("training")
        bar.unit, bar.leave = "step", True
        bar.reset(_total_steps(trainer))
        bar.initial = bar.n = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """The bar does not start again."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any
    ) -> None:
        """Move the bar to the current step."""
        now = time.monotonic()
        if now - self._refreshed < _REFRESH:
            return
        self._refreshed = now
        self._update(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the metrics of the epoch."""
        self._update(trainer, pl_module)

    def _update(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.is_enabled:
            metrics = self.get_metrics(trainer, pl_module)
            metrics.pop("v_num", None)
            self.train_progress_bar.n = trainer.global_step
            self.train_progress_bar.set_postfix(metrics | {"epoch": trainer.current_epoch})


class TrainingLines(Callback):
    """A line with the scores of each validation, and what was measured after 20 batches."""

    def __init__(self) -> None:
        self._began = self._last = 0.0
        self._first_step = 0
        self._batches: list[float] = []  # seconds of each

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._began = self._last = time.monotonic()
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any
    ) -> None:
        """Measure the first batches, and print what the whole training takes at that rate."""
        if len(self._batches) >= _MEASURED:
            return
        now = time.monotonic()
        self._batches.append(now - self._last)
        self._last = now
        total = _total_steps(trainer)
        if len(self._batches) == _MEASURED and total and total > trainer.global_step:
            self._print(trainer, self._measured(trainer, total - trainer.global_step))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation is no part of a batch's time."""
        self._paused = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the scores of this step, and how long the rest takes."""
        self._last += time.monotonic() - self._paused
        scores = trainer.callback_metrics
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        if "val/miou" not in scores:
            return
        loss = float(scores.get("train/loss", math.nan))
        text = (
            f"epoch {trainer.current_epoch}, step {trainer.global_step}: train loss {loss:.3f}, "
            f"mIoU {100 * float(scores['val/miou']):.1f} %"
        )
        done, total = trainer.global_step - self._first_step, _total_steps(trainer)
        if done > 0 and total and total > trainer.global_step:
            seconds = (time.monotonic() - self._began) / done * (total - trainer.global_step)
            text += f", about {duration(seconds)} left"
        self._print(trainer, text)

    def _measured(self, trainer: Trainer, steps: int) -> str:
        batch = statistics.median(self._batches[_WARM_UP:])
        seconds = batch * trainer.accumulate_grad_batches * steps
        memory = peak_bytes(trainer.strategy.root_device)
        used = "" if memory is None else f", {memory / 2**30:.1f} GiB of memory"
        return (
            f"measured: {batch:.2g} s a batch{used}; about {duration(seconds)} left, "
            "and the validations"
        )

    def _print(self, trainer: Trainer, text: str) -> None:
        if not trainer.is_global_zero:
            return
        if trainer.progress_bar_callback is None:
            print(text, flush=True)
        else:
            trainer.progress_bar_callback.print(text)


def _total_steps(trainer: Trainer) -> int | None:
    """Optimiser steps of the whole training; None without an end."""
    total = trainer.estimated_stepping_batches
    return None if math.isinf(total) or total < 0 else int(total)
