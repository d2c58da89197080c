"""The moving average of the weights, whose decay rises."""

from collections.abc import Callable
from typing import Any

from torch.optim.swa_utils import get_ema_multi_avg_fn


def rising_decay(decay: float, updates: int) -> float:
    """The decay of one update: ``min(decay, (1 + n) / (10 + n))`` after n updates.

    With a constant decay d the first weights keep a share of d^n, 37 % after 1 / (1 - d) updates;
    so the average covers about a ninth of the updates until d is reached, as in TensorFlow's
    ``ExponentialMovingAverage(num_updates=n)``.

    >>> [round(rising_decay(0.99, n), 3) for n in (1, 10, 100, 1000)]
    [0.182, 0.55, 0.918, 0.99]
    """
    return min(decay, (1 + updates) / (10 + updates))


def moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """``multi_avg_fn`` of :class:`torch.optim.swa_utils.AveragedModel` with :func:`rising_decay`.

    >>> import torch
    >>> average = [torch.tensor([0.0])]
    >>> moving_average(0.1)(average, [torch.tensor([1.0])], torch.tensor(8))
    >>> average
    [tensor([0.9000])]
    """

    def update(averaged: Any, current: Any, updates: Any) -> None:
        now = rising_decay(decay, int(updates))
        get_ema_multi_avg_fn(now)(averaged, current, updates)  # type: ignore[no-untyped-call]

    return update
