"""Switches and callbacks of Lightning that would train something else than they say: refused."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import callbacks

from scenewise.errors import UserError

_CALLBACKS = {
    callbacks.BackboneFinetuning: "the optimiser has the backbone from the start; give "
    "--model.freeze backbone",
    callbacks.BatchSizeFinder: "the length of the training and its learning rates depend on the "
    "batch; give --data.batch_size",
    callbacks.GradientAccumulationScheduler: "the learning rates depend on the number of steps, "
    "which would change; give --trainer.accumulate_grad_batches",
    callbacks.ModelPruning: "it cannot prune weights in channels-last format; prune the finished "
    "model",
    callbacks.StochasticWeightAveraging: "it averages after the last validation, so that the "
    "average would have no score; give --ema 0.999",
}


def refuse_switches(options: Mapping[str, Any], own: Sequence[Any]) -> None:
    """Refuse what cannot work in a training here.

    Args:
        options: of the Trainer, with a value for each.
        own: the user's callbacks.

    Raises:
        UserError: the first option or callback that cannot be used, why, and what to give instead.

    >>> refuse_switches({"overfit_batches": 2, "limit_train_batches": None}, [])
    Traceback (most recent call last):
    scenewise.errors.UserError: --trainer.overfit_batches cannot be used: ...
    """
    if options["overfit_batches"]:
        raise UserError(
            "--trainer.overfit_batches cannot be used: every epoch here has an order of its own; "
            "train on a folder with these few images, or with --data.scenes_train 8"
        )
    if options["limit_train_batches"] == 0:
        raise UserError(
            "--trainer.limit_train_batches is 0, so nothing would be trained; give a number above "
            "0, or scenewise validate"
        )
    if options["max_epochs"] == -1 and options["max_steps"] == -1:
        raise UserError(
            "--trainer.max_epochs is -1, but the learning rate decays over the whole training, so "
            "its length must be known; give a number of epochs, or --trainer.max_steps"
        )
    for callback in own:
        for kind, why in _CALLBACKS.items():
            if isinstance(callback, kind):
                raise UserError(f"the callback {kind.__name__} cannot be used: {why}")
