"""Factors of the classes in the loss, so that rare classes are learnt too."""

from collections.abc import Sequence

from scenewise.data.datasets import SegmentationDataset
from scenewise.data.doctor import quick_look

_LARGEST = 10.0
_SAMPLE = 400  # images that are read


def balanced_weights(pixels: Sequence[int]) -> list[float]:
    r"""The square root of median frequency balancing (Eigen & Fergus, ICCV 2015).

    .. math:: w_k = \sqrt{\mathrm{median}(f) / f_k}, \quad \text{at most } 10

    with the frequencies f of the classes that occur; 1 for a class that does not. The published
    form has no square root: the loss then is mostly that of the few pixels of the rarest class.

    Args:
        pixels: labelled pixels of each class.

    >>> balanced_weights([900, 100, 25, 0])
    [0.3333, 1.0, 2.0, 1.0]
    """
    seen = sorted(n for n in pixels if n)
    if not seen:
        return [1.0] * len(pixels)
    middle = seen[len(seen) // 2]  # of an even number the upper one
    weights = (min(_LARGEST, (middle / n) ** 0.5) if n else 1.0 for n in pixels)
    return [round(weight, 4) for weight in weights]


def class_balance(dataset: SegmentationDataset) -> list[float]:
    """:func:`balanced_weights` of the training images; of 400 of them, evenly spread, if more.

    >>> from scenewise.data import Scenes
    >>> len(class_balance(Scenes(4, (32, 64))))
    17
    """
    return balanced_weights(quick_look(dataset, _SAMPLE)[0].pixels)
