"""Thresholds of class probabilities: which class a pixel takes where the largest is not wanted.

With a threshold t_c for some classes, a pixel with the probabilities p takes

1. of the classes with p_c >= t_c, the one with the largest p_c / t_c;
2. if no class reaches its threshold, the one with the largest p_c of those without a threshold; of
   classes that all have one, the largest p_c / t_c.

A lower t_c makes class c easier to win, and no pixel leaves it. With two classes and one threshold,
the label is that class exactly where p_c >= t_c.

>>> import torch
>>> probabilities = torch.tensor([[0.6, 0.7, 0.8], [0.4, 0.3, 0.2]])  # (K, pixels)
>>> classes = Classes(("road", "pole"), ((0, 0, 0), (9, 9, 9)))
>>> label_by_thresholds(probabilities, threshold_values({"pole": 0.3}, classes))
(tensor([1, 1, 0]), tensor([0.4000, 0.3000, 0.8000]))
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from scenewise.classes import Classes
from scenewise.errors import UserError, choose

CHOSEN: Literal["chosen"] = "chosen"
# By class name, or those that ``scenewise test --choose_thresholds`` stored in the model.
Thresholds = Mapping[str, float] | Literal["chosen"]


class _Model(Protocol):
    classes: Classes
    thresholds: dict[str, float]


def check_thresholds(thresholds: Mapping[str, Any], classes: Classes) -> dict[str, float]:
    """The thresholds by class name, as floats.

    Raises:
        UserError: an unknown class, or not a number above 0 and below 1.

    >>> check_thresholds({"sky": 0.3}, Classes(("road", "skye"), ((0, 0, 0), (9, 9, 9))))
    Traceback (most recent call last):
    scenewise.errors.UserError: unknown class 'sky' of a threshold; did you mean 'skye'? ...
    """
    checked = {}
    for name, value in thresholds.items():
        if name not in classes.names:
            raise UserError(
                f"unknown class '{name}' of a threshold; {choose(str(name), classes.names)}"
            )
        try:
            checked[name] = float(value)
        except (TypeError, ValueError):
            checked[name] = math.nan
        if isinstance(value, bool) or not 0 < checked[name] < 1:  # also NaN
            raise UserError(
                f"the threshold of class '{name}' is {value}; give a number above 0 and below 1"
            )
    return checked


def thresholds_of(model: _Model, thresholds: Thresholds | None) -> dict[str, float]:
    """The thresholds by class name that a user means: none, their own, or those of the model.

    Raises:
        UserError: see :func:`check_thresholds`, or the model has none.
    """
    if thresholds == CHOSEN and not model.thresholds:
        raise UserError(
            "the model has no chosen thresholds; choose them with scenewise test DIR --model "
            "RUN_FOLDER --choose_thresholds, or give your own"
        )
    if thresholds == CHOSEN:
        return dict(model.thresholds)
    if not isinstance(thresholds, Mapping | None):
        raise UserError(
            f"thresholds are a number for each class name, or '{CHOSEN}', not {thresholds!r}; "
            "correct them"
        )
    return check_thresholds(thresholds or {}, model.classes)


def threshold_values(thresholds: Mapping[str, float], classes: Classes) -> Tensor:
    """(K,) float64: the threshold of each class, NaN where it has none.

    >>> threshold_values({"class_1": 0.25}, Classes.numbered(2))
    tensor([   nan, 0.2500], dtype=torch.float64)
    """
    values = [thresholds.get(name, math.nan) for name in classes.names]
    return torch.tensor(values, dtype=torch.float64)


def decision(
    thresholds: Mapping[str, float], classes: Classes
) -> Callable[[Tensor], tuple[Tensor, Tensor]] | None:
    """:func:`label_by_thresholds` with these thresholds; None without one."""
    if not thresholds:
        return None
    return partial(label_by_thresholds, thresholds=threshold_values(thresholds, classes))


def label_by_thresholds(probabilities: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """The class of each pixel by the rule above, and its probability.

    Args:
        probabilities: (K, ...), 0..1.
        thresholds: (K,), NaN for a class without one; see :func:`threshold_values`. They are
            compared in the type of the probabilities.

    Returns:
        labels (...) int64 and their probabilities (...); of equal classes the first.
    """
    dtype, others = probabilities.dtype, (1,) * (probabilities.ndim - 1)
    limits = thresholds.to(probabilities.device, dtype).clamp_min(torch.finfo(dtype).tiny)
    limits = limits.view(-1, *others)  # (K, 1, ...)
    limited = ~limits.isnan()
    rank = probabilities / limits  # (K, ...), at least 1 where a threshold is reached
    if not limited.all():
        lost = torch.where(limited, -1.0, probabilities / 2)  # 2.: below every rank of 1.
        rank = torch.where(probabilities >= limits, rank, lost)
    labels = rank.max(0).indices
    return labels, probabilities.gather(0, labels[None])[0]
