"""``LastCheckpoint``: the checkpoint that an interrupted run is resumed from."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from scenewise.errors import UserError
from scenewise.training.checkpoint import read_log


class LastCheckpoint(Checkpoint):
    """Keep ``checkpoints/last.ckpt`` in the run folder.

    It is written after each validation, every ``every`` optimiser steps, at the end, and when the
    process is terminated (SIGTERM). Lightning's own ``save_last`` writes it only together with a
    new best checkpoint, and its handler of SIGTERM interrupts a validation, during which an average
    may be swapped in for the weights. A single process finishes its batch first; several stop where
    Lightning stops them together, and save unless that is in a validation.

    Args:
        every: optimiser steps; None for validations only.
    """

    def __init__(self, every: int | None = None) -> None:
        if every is not None and every < 1:
            raise UserError(f"--save_every is {every}; give a number of steps, 1 or more")
        self.every = every
        self._saved = -1  # step of the last save
        self._terminated = False  # whether SIGTERM came
        self._lightning_handler: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle SIGTERM; Lightning restores the previous handler at the end."""
        if trainer.world_size == 1 and threading.current_thread() is threading.main_thread():
            self._lightning_handler = signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save every so many steps and after SIGTERM, unless a validation is about to save."""
        step = trainer.global_step
        often = self.every is not None and step % self.every == 0 and step != self._saved
        if (often or self._terminated) and not _validation_is_due(trainer):
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save with the best score so far."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, with the epoch counted as finished."""
        self._save(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save when several processes are terminated."""
        if isinstance(exception, SIGTERMException) and trainer.training and not self._terminated:
            self._save(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the length of ``metrics.csv`` to every checkpoint, also the best."""
        for logger in trainer.loggers:
            logger.save()
            if isinstance(logger, CSVLogger):
                checkpoint["log_rows"] = len(read_log(logger))

    def _save(self, trainer: Trainer) -> None:
        if not getattr(trainer, "fast_dev_run", False):
            folder = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"
            trainer.save_checkpoint(folder / "last.ckpt")
            self._saved = trainer.global_step
        if self._terminated and callable(self._lightning_handler):
            self._lightning_handler(
                signal.SIGTERM, None
            )  # stops after the batch, with its row logged


def _validation_is_due(trainer: Trainer) -> bool:
    """Whether Lightning validates after the batch that it has just trained on."""
    loop = trainer.fit_loop
    index = loop.total_batch_idx if trainer.check_val_every_n_epoch is None else loop.batch_idx
    every = trainer.val_check_batch
    return trainer.enable_validation and every is not None and (index + 1) % every == 0
