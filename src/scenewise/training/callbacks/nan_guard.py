"""``NaNGuard``: stops a training whose loss or gradients are NaN or infinite."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from scenewise.errors import UserError
from scenewise.training.callbacks.run_folder import folder_of
from scenewise.training.checkpoint import newest_whole
from scenewise.training.distributed import full_tensor


class NaNGuard(Callback):
    """Raise a UserError at the first NaN or infinite loss or gradient, with step and images.

    On the CPU every loss is checked before its gradients are computed, and the norm of the
    gradients before the optimiser uses them, so that the weights stay as they were. On an
    accelerator that would synchronise each step: there both are checked every
    ``trainer.log_every_n_steps`` batches, before a validation, at the end of an epoch, and before
    any checkpoint is written, so that no checkpoint holds weights from after a NaN. With
    ``16-mixed``, whose scaler skips steps of infinite gradients itself, only losses are checked.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._accumulated: list[str] = []  # images of the gradients so far
        self._pending: list[tuple[str, int, list[str], Tensor]] = []  # what, step, images, value

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the images of the batch."""
        self._names = [*batch.get("name", ()), *batch.get("unlabelled_name", ())]

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Check the loss, or keep it for later."""
        self._accumulated += self._names
        self._keep(trainer, "loss", self._names, loss.detach())

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Check the norm of the gradients before they are clipped, or keep it for later."""
        names, self._accumulated = self._accumulated, []
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            self._keep(trainer, "gradients", names, full_tensor(get_total_norm(gradients)))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Check what is pending."""
        self._check(trainer)

    def _keep(self, trainer: Trainer, what: str, names: list[str], value: Tensor) -> None:
        self._pending.append((what, trainer.global_step, names, value))
        every = max(1, int(getattr(trainer, "log_every_n_steps", 1)))
        if value.device.type == "cpu" or len(self._pending) >= 2 * every:  # a loss and a norm each
            self._check(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check what is pending."""
        self._check(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check what is pending."""
        self._check(trainer)

    def _check(self, trainer: Trainer) -> None:
        pending, self._pending = self._pending, []
        if not pending:
            return
        finite = torch.stack([value.float() for *_, value in pending]).isfinite().tolist()
        if all(finite):  # one synchronisation for all of them
            return
        what, step, names, value = pending[finite.index(False)]
        raise UserError(
            f"the {what} became {float(value)} in step {step} with the images "
            f"{', '.join(names)}; {_last_good(trainer)}, with a lower --model.lr or "
            "--trainer.gradient_clip_val 1"
        )


def _last_good(trainer: Trainer) -> str:
    """Where to resume from."""
    saver = trainer.checkpoint_callback
    best = saver.best_model_path if isinstance(saver, ModelCheckpoint) else ""
    last = newest_whole(folder_of(trainer) / "checkpoints")
    path = last or best
    if path:
        return f"resume from the last checkpoint, --ckpt_path {path}"
    return "no checkpoint was written yet, so start again"
