"""Low-resolution logits, upsampled and reduced to labels or scores a few rows at a time.

Logits at the size of an image are large: 160 MB for 19 classes and 1024 x 2048 pixels, five times
that at scale 2.2. They are needed a few rows at a time, which fit into a processor's cache.

Shapes: (K, H, W) scores of K classes.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from scenewise.inference.sliding_window import Size, resize, softmax_

_BLOCK_NUMEL = 1 << 18  # scores in a block: 1 MB, which fits into a cache


class _RowInterpolation(NamedTuple):
    """Output row i is ``lerp(input[upper[i]], input[lower[i]], weight[i])``; float64 weights."""

    upper: Tensor
    lower: Tensor
    weight: Tensor

    @classmethod
    def between(cls, inputs: int, outputs: int, *, align_corners: bool) -> "_RowInterpolation":
        """The rows of a bilinear resize from ``inputs`` to ``outputs`` rows.

        >>> _RowInterpolation.between(2, 3, align_corners=True).weight.tolist()
        [0.0, 0.5, 0.0]
        """
        source = torch.arange(outputs, dtype=torch.float64)
        if align_corners:
            source = source * ((inputs - 1) / max(1, outputs - 1))
        else:  # pixel centres are at half-integers, as in F.interpolate
            source = ((source + 0.5) * (inputs / outputs) - 0.5).clamp_min(0)
        upper = source.long().clamp_max(inputs - 1)
        return cls(upper, (upper + 1).clamp_max(inputs - 1), source - upper)

    def rows(self, scores: Tensor, first: int, last: int, offset: int = 0) -> Tensor:
        """Output rows ``first`` to ``last``; the first row of ``scores`` is input ``offset``."""
        block = scores.new_empty(len(scores), last - first, scores.shape[2])  # (K, rows, W)
        terms = zip(*(values[first:last].tolist() for values in self), strict=True)
        for i, (upper, lower, weight) in enumerate(terms):
            above, below = scores[:, upper - offset], scores[:, lower - offset]  # (K, W) each
            torch.lerp(above, below, weight, out=block[:, i])
        return block

    def needed(self, first: int, last: int) -> tuple[int, int]:
        """The (first, past-the-last) input row that output rows ``first`` to ``last`` need."""
        return int(self.upper[first]), int(self.lower[last - 1]) + 1


def label_from_logits(
    logits: Tensor, size: Size, crop: Size, *, align_corners: bool, rows: int | None = None
) -> tuple[Tensor, Tensor]:
    """Class and probability of each pixel, from low-resolution logits, block of rows by block.

    The same as the largest softmax of the logits resized bilinearly to ``size``, without ever
    holding them at that size. Labels differ only where two classes are equal up to rounding.

    Args:
        logits: (K, h, w).
        size: (height, width) to which the logits are upsampled.
        crop: (height, width) of the upper left part of it that is returned.
        align_corners: see :func:`torch.nn.functional.interpolate`.
        rows: of a block; default: as many as a cache holds.

    Returns:
        labels (H, W) int64 and confidence (H, W), of the size ``crop``.

    >>> eye = torch.eye(2)[:, None]
    >>> labels, confidence = label_from_logits(eye, (4, 6), (4, 5), align_corners=True)
    >>> labels[0]
    tensor([0, 0, 0, 1, 1])
    """
    rows = rows or _rows_in_block(len(logits), size[1])
    wide = resize(logits, (logits.shape[1], size[1]), align_corners=align_corners)
    wide = wide[..., : crop[1]]  # (K, h, W): columns at full size, rows not yet
    vertical = _RowInterpolation.between(logits.shape[1], size[0], align_corners=align_corners)
    labels = torch.empty(crop, dtype=torch.int64, device=logits.device)
    confidence = logits.new_empty(crop)
    for top in range(0, crop[0], rows):
        block = slice(top, min(top + rows, crop[0]))
        scores = vertical.rows(wide, block.start, block.stop)
        largest, labels[block] = scores.max(0)
        confidence[block] = scores.sub_(largest).exp_().sum(0).reciprocal_()  # softmax at its max
    return labels, confidence


def softmax_blocks(
    logits: Tensor, size: Size, crop: Size, *, align_corners: bool, rows: int | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Softmax scores of each pixel, from low-resolution logits, block of rows by block.

    Together the same as the softmax of the logits resized bilinearly to ``size``, cropped.

    Args:
        logits: see :func:`label_from_logits`, as the other arguments.
        size: see there.
        crop: see there.
        align_corners: see there.
        rows: see there.

    Yields:
        The rows, and the scores (K, rows, W) there.

    >>> eye = torch.eye(2)[:, None]
    >>> blocks = softmax_blocks(eye, (4, 6), (4, 5), align_corners=True, rows=3)
    >>> [tuple(scores.shape) for _, scores in blocks]
    [(2, 3, 5), (2, 1, 5)]
    """
    rows = rows or _rows_in_block(len(logits), size[1])
    wide = resize(logits, (logits.shape[1], size[1]), align_corners=align_corners)
    wide = wide[..., : crop[1]]  # (K, h, W)
    vertical = _RowInterpolation.between(logits.shape[1], size[0], align_corners=align_corners)
    for top in range(0, crop[0], rows):
        block = slice(top, min(top + rows, crop[0]))
        yield block, softmax_(vertical.rows(wide, block.start, block.stop))


def blocks_of(scores: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Scores (K, H, W) of a whole image as :func:`softmax_blocks` yields them.

    >>> [(rows.start, part.shape[1]) for rows, part in blocks_of(torch.zeros(1024, 5, 128))]
    [(0, 2), (2, 2), (4, 1)]
    """
    step = _rows_in_block(len(scores), scores.shape[2])
    for top in range(0, scores.shape[1], step):
        rows = slice(top, min(top + step, scores.shape[1]))
        yield rows, scores[:, rows]


def scores_at(
    logits: Tensor, size: Size, at: Sequence[tuple[int, ...]], *, align_corners: bool
) -> Tensor:
    """Softmax scores (P, K) of the pixels ``at``, (row, column), from low-resolution logits.

    The same as the softmax of the logits resized bilinearly to ``size``, at these pixels alone.

    >>> eye = torch.eye(2)[:, None]
    >>> scores_at(eye, (4, 6), [(0, 0), (3, 5)], align_corners=True).argmax(1)
    tensor([0, 1])
    """
    wide = resize(logits, (logits.shape[1], size[1]), align_corners=align_corners)  # (K, h, W)
    vertical = _RowInterpolation.between(logits.shape[1], size[0], align_corners=align_corners)
    columns = [vertical.rows(wide, row, row + 1)[:, 0, column] for row, column in at]  # P x (K,)
    return torch.stack(columns).softmax(1)


class ViewLogits(NamedTuple):
    """What a network returns for one view of an image: a scale, mirrored or not.

    Attributes:
        logits: (K, h, w), at the network's low resolution.
        size: (height, width) to which they are upsampled.
        crop: (height, width) of the view, the upper left part of ``size``.
        mirrored: whether the view was the mirror image.
    """

    logits: Tensor
    size: Size
    crop: Size
    mirrored: bool


def add_view_(
    total: Tensor,
    view: ViewLogits,
    *,
    align_corners: bool,
    at_view: Callable[[Tensor], Tensor] | None = None,
    at_image: Callable[[Tensor], Tensor] | None = None,
    rows: int | None = None,
) -> Tensor:
    """Add the scores of a view, at the size of the image, to ``total`` (K, H, W), in place.

    ``total += at_image(resize(at_view(resize(logits, size)[:crop]), (H, W)))``, mirrored back if
    the view was mirrored; both functions map blocks (K, rows, W), each pixel by itself.

    >>> half = ViewLogits(torch.ones(1, 2, 2), size=(4, 4), crop=(4, 3), mirrored=False)
    >>> add_view_(torch.zeros(1, 2, 2), half, align_corners=False)
    tensor([[[1., 1.],
             [1., 1.]]])
    """
    classes, height, width = total.shape
    rows = rows or _rows_in_block(classes, max(width, view.size[1]))
    logits, across = view.logits.contiguous(), view.size[1]
    wide = resize(logits, (logits.shape[1], across), align_corners=align_corners)
    wide = wide[..., : view.crop[1]]  # (K, h, crop's width)
    upsampling = partial(_RowInterpolation.between, align_corners=align_corners)
    to_view, to_image = upsampling(logits.shape[1], view.size[0]), upsampling(view.crop[0], height)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        first, last = to_image.needed(top, bottom)  # rows of the view
        scores = to_view.rows(wide, first, last)
        scores = scores if at_view is None else at_view(scores)
        scores = resize(scores, (last - first, width), align_corners=align_corners)
        scores = to_image.rows(scores, top, bottom, offset=first)  # (K, bottom - top, W)
        scores = scores if at_image is None else at_image(scores)
        total[:, top:bottom] += scores.flip(-1) if view.mirrored else scores
    return total


def _rows_in_block(classes: int, columns: int) -> int:
    return max(1, _BLOCK_NUMEL // (classes * columns))
