"""``LastCheckpoint``: the checkpoint that an interrupted run is resumed from."""

from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer

from scenewise.errors import UserError
from scenewise.training.callbacks.run_folder import folder_of
from scenewise.training.callbacks.signals import Signals
from scenewise.training.checkpoint import ResumePoint, exact_state, restore_exact_state
from scenewise.training.loggers import RunLog


class _Moment(NamedTuple):
    """What a batch changes besides weights and optimiser, as it was before the batch."""

    loops: dict[str, Any]
    buffers: list[Tensor]
    state: dict[str, Any]  # random states, gradients


class LastCheckpoint(Checkpoint):
    """Keep ``checkpoints/last.ckpt`` in the run folder.

    It is written before and after each validation, every ``every`` optimiser steps, at the end, and
    when the command is interrupted (Ctrl-C) or terminated (SIGTERM). It then holds the state after
    the last whole batch: what the batch that was interrupted has changed is put back. In a
    validation, during which an average may be swapped in for the weights, nothing is written: the
    file of its start repeats it.

    Args:
        every: optimiser steps; None for validations only.
        signals: held while the state is between two steps.
        settings: of the training, which go into every checkpoint.
        resume: where the run is resumed.
    """

    def __init__(
        self,
        every: int | None = None,
        signals: Signals | None = None,
        settings: dict[str, Any] | None = None,
        resume: ResumePoint | None = None,
    ) -> None:
        if every is not None and every < 1:
            raise UserError(f"--save_every is {every}; give a number of steps, 1 or more")
        self.every = every
        self.signals = signals or Signals()
        self.settings = settings or {}
        self.resume = resume
        self._saved: int | None = None  # step of the last save
        self._path = Path()
        self._moment: _Moment | None = None
        self._gradients: dict[str, Tensor] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Be what the signals save with."""
        self.signals.save = lambda: self._interrupted(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Log under the right step; Lightning counts twice where a finished run is resumed."""
        if self.resume is not None:
            trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Keep gradients of earlier batches of this step, which the backward pass adds to."""
        halfway = trainer.fit_loop.batch_idx % trainer.accumulate_grad_batches
        if halfway and self._moment is not None:
            state = exact_state(pl_module, gradients=True)["gradients"]
            self._gradients = {name: gradient.clone() for name, gradient in state.items()}

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Hold the signals: from here on, weights change."""
        self.signals.hold()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save every so many steps, unless a validation is about to save."""
        if _validation_is_due(trainer):
            self.signals.hold()  # until its start is saved
            return
        step = trainer.global_step
        if self.every is not None and step % self.every == 0 and step != self._saved:
            self._save(trainer)
        self._remember(trainer, pl_module)
        self.signals.step_done()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save a state that starts with this validation."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            total = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total
            # as if its first image had begun: Lightning then repeats the whole validation
            total.ready = total.started = total.completed + 1  # type: ignore[attr-defined]
            self._save(trainer)
            total.ready = total.started = total.completed  # type: ignore[attr-defined]
            self._moment = None
            self.signals.release()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save with the best score so far."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self.signals.hold()
            self._save(trainer)
            self._remember(trainer, pl_module)
            self.signals.release()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, with the epoch counted as finished."""
        self._save(trainer)
        self._moment = None
        self.signals.release()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the settings and the length of ``metrics.csv`` to every checkpoint, also the best."""
        checkpoint["settings"] = self.settings
        for logger in trainer.loggers:
            logger.save()
            if isinstance(logger, RunLog):
                checkpoint["log_rows"] = len(logger.rows())

    def _remember(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size == 1:  # else nothing is put back
            loops = deepcopy(trainer.fit_loop.state_dict())
            buffers = [buffer.clone() for buffer in pl_module.buffers()]
            self._moment = _Moment(loops, buffers, exact_state(pl_module, gradients=False))
            self._gradients = {}

    def _interrupted(self, trainer: Trainer, pl_module: LightningModule) -> str:
        """Save the state after the last whole batch, unless the file has it; say what exists."""
        moment, self._moment = self._moment, None
        if trainer.world_size > 1:
            if trainer.training and trainer.received_sigterm:
                self._save(trainer)  # all processes are after the same batch
        elif moment is not None and not self.signals.held:
            trainer.fit_loop.load_state_dict(moment.loops)
            for buffer, value in zip(pl_module.buffers(), moment.buffers, strict=True):
                buffer.data.copy_(value)
            state = moment.state
            if self._gradients:
                pl_module.zero_grad()
                state = state | {"gradients": self._gradients}
            restore_exact_state(pl_module, state)
            self._save(trainer)
        return self._what_exists()

    def _what_exists(self) -> str:
        if self._saved is not None:
            return f"step {self._saved} is saved in {self._path}; resume with --ckpt_path last"
        if self.resume is not None:
            return f"no batch was finished since {self.resume.path}; resume from there again"
        return "no batch was finished, so there is nothing to resume"

    def _save(self, trainer: Trainer) -> None:
        if getattr(trainer, "fast_dev_run", False):
            return
        self._path = folder_of(trainer) / "checkpoints" / "last.ckpt"
        trainer.save_checkpoint(self._path)
        self._saved = trainer.global_step


def _validation_is_due(trainer: Trainer) -> bool:
    """Whether Lightning validates after the batch that it has just trained on."""
    loop = trainer.fit_loop
    return loop._data_fetcher is not None and loop.epoch_loop._should_check_val_fx(
        loop._data_fetcher
    )
