"""Stops a training whose loss or gradients are no longer numbers."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from scenewise.errors import UserError
from scenewise.training.checkpoint import newest_whole
from scenewise.training.distributed import full_tensor


class NaNGuard(Callback):
    """Raise a UserError at the first NaN or infinite loss or gradient, with step and pictures.

    On the CPU every loss is looked at before its gradients are computed, and the norm of the
    gradients before the optimiser uses them, so that the weights stay as they were. An accelerator
    would have to wait for that: there both are looked at every ``trainer.log_every_n_steps``
    batches, before a validation, at the end of an epoch, and before any checkpoint is written, so
    that no checkpoint holds what came of them. With ``16-mixed``, whose scaler leaves out steps of
    infinite gradients by itself, losses alone are looked at.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._summed: list[str] = []  # pictures of the gradients so far
        self._waiting: list[tuple[str, int, list[str], Tensor]] = []  # what, step, pictures, value

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember which pictures the batch has."""
        self._names = list(batch.get("name", ()))

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Look at the loss, or put it aside for later."""
        self._summed += self._names
        self._wait(trainer, "loss", self._names, loss.detach())

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Look at the norm of the gradients, before they are clipped, or put it aside."""
        names, self._summed = self._summed, []
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            self._wait(trainer, "gradients", names, full_tensor(get_total_norm(gradients)))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Look at what is left."""
        self._look(trainer)

    def _wait(self, trainer: Trainer, what: str, names: list[str], value: Tensor) -> None:
        self._waiting.append((what, trainer.global_step, names, value))
        every = max(1, int(getattr(trainer, "log_every_n_steps", 1)))
        if value.device.type == "cpu" or len(self._waiting) >= 2 * every:
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
        fine = torch.stack([value.float() for *_, value in waiting]).isfinite().tolist()
        if all(fine):
            return
        what, step, names, value = waiting[fine.index(False)]
        raise UserError(
            f"the {what} became {float(value)} in step {step} with the images "
            f"{', '.join(names)}; {_last_good(trainer)}, with a lower --model.lr or "
            "--trainer.gradient_clip_val 1"
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
