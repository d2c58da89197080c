"""Stops a training whose loss is no longer a number."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from scenewise.errors import UserError
from scenewise.training.continued import newest_whole


class FiniteLoss(Callback):
    """Raise a UserError at the first loss that is NaN or infinite; name the step and the pictures.

    On the CPU every loss is looked at before its gradients are computed, so that the weights stay
    as they were. An accelerator would have to wait for that: there the losses are looked at every
    ``trainer.log_every_n_steps`` batches, and always before a validation and at the end of an
    epoch, so before Lightning saves a checkpoint of the best model.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._waiting: list[tuple[int, list[str], Tensor]] = []  # step, pictures, loss

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember which pictures the batch has."""
        self._names = list(batch.get("name", ()))

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Look at the loss, or put it aside for later."""
        self._waiting.append((trainer.global_step, self._names, loss.detach()))
        every = max(1, int(getattr(trainer, "log_every_n_steps", 1)))
        if loss.device.type == "cpu" or len(self._waiting) >= every:
            self._look(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what is left."""
        self._look(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what is left."""
        self._look(trainer)

    def _look(self, trainer: Trainer) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        fine = torch.stack([loss for _, _, loss in waiting]).isfinite().tolist()
        if all(fine):
            return
        step, names, loss = waiting[fine.index(False)]
        raise UserError(
            f"the loss became {float(loss)} in step {step} with the pictures {', '.join(names)}; "
            f"{_last_good(trainer)}, with a lower --model.lr or --trainer.gradient_clip_val 1"
        )


def _last_good(trainer: Trainer) -> str:
    """Where to go on; ``last.ckpt`` may hold weights that are already bad."""
    saver = trainer.checkpoint_callback
    best = saver.best_model_path if isinstance(saver, ModelCheckpoint) else ""
    last = newest_whole(Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints")
    path = last or best
    if path:
        return f"go on from the last checkpoint, --ckpt_path {path}"
    return "no checkpoint was written yet, so start again"
