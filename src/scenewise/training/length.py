"""How long a training runs, where the user has not said."""

import math
from typing import Any


def length_from_data(
    batches: int, *, gpu: bool, max_epochs: int | None, max_steps: int, accumulate: int = 1
) -> dict[str, Any]:
    """How long to train and how often to validate, where the user has not said.

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

    >>> length_from_data(46, gpu=True, max_epochs=None, max_steps=-1)
    {'max_epochs': 240, 'check_val_every_n_epoch': 6}
    >>> length_from_data(46, gpu=False, max_epochs=None, max_steps=250)
    {'val_check_interval': 25, 'check_val_every_n_epoch': None}
    """
    if max_steps > 0 and max_epochs is None:
        interval = validation_interval(max_steps) * accumulate
        return {"val_check_interval": interval, "check_val_every_n_epoch": None}
    if max_epochs is not None or max_steps == 0:
        return {}
    steps = math.ceil(batches / accumulate)
    epochs, most_steps = (240, 40_000) if gpu else (40, 1_000)
    epochs = max(1, min(epochs, round(most_steps / steps)))
    every = math.ceil(epochs / 40)
    return {"max_epochs": math.ceil(epochs / every) * every, "check_val_every_n_epoch": every}


def validation_interval(steps: int) -> int:
    """The divisor of ``steps`` nearest to a tenth of it, so that the last step is validated.

    At least a twentieth, so that a prime number of steps is not validated after each.

    >>> validation_interval(250), validation_interval(24), validation_interval(251)
    (25, 2, 251)
    """
    wanted = steps / 10
    divisors = [n for n in range(1, steps + 1) if steps % n == 0 and n >= steps / 20]
    return min(divisors, key=lambda n: abs(n - wanted))
