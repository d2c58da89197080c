"""Small scores upsampled, put to use and dropped in strips of a few rows.

Logits at the size of a picture are large: 160 MB for 19 classes and 1024 x 2048 pixels, five times
that at scale 2.2. They are needed a few rows at a time, which fit into a processor's cache.

Shapes: (K, H, W) scores of K classes.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from scenewise.inference.sliding_window import Size, resize

STRIP = 1 << 18  # numbers in a strip of scores: 1 MB


class Rows(NamedTuple):
    """Each wanted row lies between two rows that there are: ``lerp(upper, lower, part)``."""

    upper: Tensor
    lower: Tensor
    part: Tensor

    @classmethod
    def between(cls, length: int, wanted: int, *, align_corners: bool) -> "Rows":
        """Rows of a bilinear resize from ``length`` to ``wanted`` rows.

        >>> Rows.between(2, 3, align_corners=True).part.tolist()
        [0.0, 0.5, 0.0]
        """
        places = torch.arange(wanted, dtype=torch.float64)
        if align_corners:
            places = places * ((length - 1) / max(1, wanted - 1))
        else:
            places = ((places + 0.5) * (length / wanted) - 0.5).clamp_min(0)
        upper = places.long().clamp_max(length - 1)
        return cls(upper, (upper + 1).clamp_max(length - 1), places - upper)

    def of(self, scores: Tensor, first: int, last: int, offset: int = 0) -> Tensor:
        """The wanted rows ``first`` to ``last`` of ``scores``, whose first row is ``offset``."""
        rows = scores.new_empty(len(scores), last - first, scores.shape[2])
        places = zip(*(values[first:last].tolist() for values in self), strict=True)
        for i, (upper, lower, part) in enumerate(places):
            above, below = scores[:, upper - offset], scores[:, lower - offset]
            torch.lerp(above, below, part, out=rows[:, i])
        return rows

    def needed(self, first: int, last: int) -> tuple[int, int]:
        """The (first, past-the-last) row that the wanted rows ``first`` to ``last`` need."""
        return int(self.upper[first]), int(self.lower[last - 1]) + 1


def label(
    logits: Tensor, size: Size, cut: Size, *, align_corners: bool, rows: int | None = None
) -> tuple[Tensor, Tensor]:
    """Class and probability of each pixel, from small logits, in strips.

    The same as the largest softmax of the logits resized bilinearly to ``size``, without ever
    holding them at that size. Labels differ only where two classes are equal up to rounding.

    Args:
        logits: (K, h, w).
        size: (height, width) that the logits stand for.
        cut: (height, width) of what is wanted of it, from the upper left.
        align_corners: see :func:`torch.nn.functional.interpolate`.
        rows: of a strip; default: as many as a cache holds.

    Returns:
        labels (H, W) int64 and confidence (H, W).

    >>> labels, confidence = label(torch.eye(2)[:, None], (4, 6), (4, 5), align_corners=True)
    >>> labels[0]
    tensor([0, 0, 0, 1, 1])
    """
    rows = rows or _rows(len(logits), size[1])
    wide = resize(logits, (logits.shape[1], size[1]), align_corners=align_corners)[..., : cut[1]]
    down = Rows.between(logits.shape[1], size[0], align_corners=align_corners)
    labels = torch.empty(cut, dtype=torch.int64, device=logits.device)
    confidence = logits.new_empty(cut)
    for top in range(0, cut[0], rows):
        strip = slice(top, min(top + rows, cut[0]))
        scores = down.of(wide, strip.start, strip.stop)
        largest, labels[strip] = scores.max(0)
        confidence[strip] = scores.sub_(largest).exp_().sum(0).reciprocal_()
    return labels, confidence


class View(NamedTuple):
    """What a network says of a picture at some scale.

    Attributes:
        logits: (K, h, w), as small as the network gives them.
        size: (height, width) that they stand for.
        cut: (height, width) of the picture at this scale, the upper left part of ``size``.
        mirrored: whether it was the mirror image.
    """

    logits: Tensor
    size: Size
    cut: Size
    mirrored: bool


def add_view_(
    total: Tensor,
    view: View,
    *,
    align_corners: bool,
    at_view: Callable[[Tensor], Tensor] | None = None,
    at_picture: Callable[[Tensor], Tensor] | None = None,
    rows: int | None = None,
) -> Tensor:
    """Add the scores of a view, at the size of the picture, to ``total`` (K, H, W), in place.

    ``total += at_picture(resize(at_view(resize(logits, size)[:cut]), (H, W)))``, turned back if
    mirrored; the two functions map strips (K, rows, columns), each pixel by itself.

    >>> half = View(torch.ones(1, 2, 2), size=(4, 4), cut=(4, 3), mirrored=False)
    >>> add_view_(torch.zeros(1, 2, 2), half, align_corners=False)
    tensor([[[1., 1.],
             [1., 1.]]])
    """
    classes, height, width = total.shape
    rows = rows or _rows(classes, max(width, view.size[1]))
    small, (above, across) = view.logits.contiguous(), view.size
    wide = resize(small, (small.shape[1], across), align_corners=align_corners)[..., : view.cut[1]]
    to_view = Rows.between(small.shape[1], above, align_corners=align_corners)
    to_picture = Rows.between(view.cut[0], height, align_corners=align_corners)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        first, last = to_picture.needed(top, bottom)
        scores = to_view.of(wide, first, last)
        scores = scores if at_view is None else at_view(scores)
        scores = resize(scores, (last - first, width), align_corners=align_corners)
        scores = to_picture.of(scores, top, bottom, offset=first)
        scores = scores if at_picture is None else at_picture(scores)
        total[:, top:bottom] += scores.flip(-1) if view.mirrored else scores
    return total


def _rows(classes: int, columns: int) -> int:
    """Rows of a strip of so many classes and columns."""
    return max(1, STRIP // (classes * columns))
