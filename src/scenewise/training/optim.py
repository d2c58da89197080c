"""How the learning rate falls."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def poly(
    step: int, total: int, *, power: float = 0.9, floor: float = 0.0, warmup: int = 0
) -> float:
    """The factor (1 - floor) (1 - t/T)^power + floor of the learning rate at step t of T.

    DANet and most networks of its time use power 0.9, no floor and no warm-up; mmsegmentation adds
    a floor. During a warm-up the factor also rises linearly from 1 / warmup to 1.

    Args:
        step: t, the number of steps already done.
        total: T, the number of steps in all; from there on the factor stays at ``floor``.
        power: of the polynomial.
        floor: the factor at the end, 0..1.
        warmup: the number of first steps over which the rate rises.

    >>> [round(poly(t, 4), 3) for t in range(5)]
    [1.0, 0.772, 0.536, 0.287, 0.0]
    >>> poly(100, 100, floor=0.25)
    0.25
    """
    left = max(0.0, 1.0 - step / total)
    rise = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
    return float(rise * ((1.0 - floor) * left**power + floor))


def poly_schedule(
    optimizer: Optimizer,
    total: int,
    *,
    power: float = 0.9,
    floor: float = 0.0,
    warmup: int = 0,
) -> LambdaLR:
    """:func:`poly` on every parameter group of ``optimizer``; step it once for each batch."""
    return LambdaLR(
        optimizer, lambda step: poly(step, total, power=power, floor=floor, warmup=warmup)
    )
