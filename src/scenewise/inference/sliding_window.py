"""Sliding-window inference: sizes, windows, and how overlapping scores are averaged in place.

Shapes: (B, C, H, W) images, (K, H, W) scores of K classes.
"""

import math
from collections.abc import Callable, Iterable
from itertools import product
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from scenewise.errors import UserError

Size = tuple[int, int]
Score = Callable[[Tensor], Tensor]
Blend = Literal["even", "hann"]


def pair(value: int | Size) -> Size:
    """``value`` as (height, width).

    >>> pair(769), pair((1024, 2048))
    ((769, 769), (1024, 2048))
    """
    return (value, value) if isinstance(value, int) else value


def two_thirds(window: Size) -> Size:
    """The usual stride: two thirds of the window, rounded up.

    >>> two_thirds((768, 769))
    (512, 513)
    """
    return -(-2 * window[0] // 3), -(-2 * window[1] // 3)


def window_and_stride(
    window: int | Size | None, stride: int | Size | None
) -> tuple[Size | None, Size | None]:
    """Window and stride as (height, width), checked to leave no gap.

    Raises:
        UserError: a stride without window, below 1 pixel, or larger than the window.

    >>> window_and_stride(7, None), window_and_stride(None, None)
    (((7, 7), (5, 5)), (None, None))
    """
    if window is None:
        if stride is not None:
            raise UserError("stride given without window; give the window too")
        return None, None
    sides = pair(window)
    steps = two_thirds(sides) if stride is None else pair(stride)
    if min(sides) < 1 or min(steps) < 1:
        raise UserError(f"window {window} and stride {stride} must be at least 1 pixel")
    if steps[0] > sides[0] or steps[1] > sides[1]:
        raise UserError(
            f"a stride of {steps[0]} x {steps[1]} is larger than the window of {sides[0]} x "
            f"{sides[1]} and leaves gaps; give a smaller stride"
        )
    return sides, steps


def intervals(
    length: int, window: int, stride: int, *, shift_back: bool = True
) -> list[tuple[int, int]]:
    """The (first, past-the-last) pixel of each window along one side of an image.

    There are ceil((length - window) / stride) + 1 of them; one if the window covers the side.

    Args:
        length: pixels of the side.
        window: pixels of a window.
        stride: pixels from one window to the next; at most ``window``.
        shift_back: move the last window back so that it ends at the border with its full length;
            otherwise it starts at its multiple of the stride and is cut at the border.

    >>> intervals(10, 4, 3), intervals(9, 4, 3), intervals(3, 4, 3)
    ([(0, 4), (3, 7), (6, 10)], [(0, 4), (3, 7), (5, 9)], [(0, 3)])
    >>> intervals(9, 4, 3, shift_back=False)
    [(0, 4), (3, 7), (6, 9)]
    """
    windows = []
    for i in range(max(0, math.ceil((length - window) / stride)) + 1):
        last = min(i * stride + window, length)
        windows.append((max(0, last - window) if shift_back else i * stride, last))
    return windows


def slide(
    score: Score,
    images: Tensor,
    window: Size | None,
    stride: Size | None = None,
    *,
    shift_back: bool = True,
    pad: Tensor | None = None,
    blend: Blend = "even",
) -> Tensor:
    """The mean, at every pixel, of the scores of the windows that cover it.

    With ``blend="hann"`` it is weighted by :func:`hann` of the row times that of the column in the
    window: a window fades out towards its border, where it lacks context, instead of ending there.

    Args:
        score: maps a window (1, C, h, w) to (K, h, w).
        images: (1, C, H, W).
        window: (height, width) of a window; None scores the whole image.
        stride: (rows, columns) from one window to the next; None is the window: no overlap.
        shift_back: see :func:`intervals`.
        pad: (C, 1, 1), fills a window that is cut short on its right and bottom. Without it a
            short window is scored as it is.
        blend: weights of the mean; a window that is cut short has the weights of its pixels in
            the full window.

    Returns:
        (K, H, W). Memory holds one such tensor and the scores of one window.

    >>> ramp = torch.arange(35.0).reshape(1, 1, 5, 7)
    >>> torch.equal(slide(lambda x: x[0], ramp, (2, 3), (2, 2)), ramp[0])
    True
    """
    if window is None:
        return score(images)
    stride = stride or window
    height, width = images.shape[-2:]
    rows = intervals(height, window[0], stride[0], shift_back=shift_back)
    columns = intervals(width, window[1], stride[1], shift_back=shift_back)
    if len(rows) == len(columns) == 1:
        return _score_padded(score, images, window, pad)
    weights = _window_weights(window, blend).to(images)  # (h, w)
    total, weight = None, images.new_zeros(height, width)  # (K, H, W), (H, W)
    for (top, bottom), (left, right) in product(rows, columns):
        part = _score_padded(score, images[..., top:bottom, left:right], window, pad)
        if total is None:
            total = part.new_zeros(len(part), height, width)  # K is known only now
        own = weights[: bottom - top, : right - left]
        total[:, top:bottom, left:right].addcmul_(part, own.to(part))
        weight[top:bottom, left:right] += own
    assert total is not None  # there is at least one window
    return total.div_(weight)


def hann(length: int) -> Tensor:
    """sin^2(pi (i + 1/2) / length) of pixels i = 0 .. length - 1, float64; positive, symmetric.

    Windows at strides of length / n, n = 2, 3, ..., sum to a constant away from the border.

    >>> hann(4) + hann(4).roll(2)
    tensor([1., 1., 1., 1.], dtype=torch.float64)
    """
    return ((torch.arange(length, dtype=torch.float64) + 0.5) * (math.pi / length)).sin().square()


def _window_weights(window: Size, blend: Blend) -> Tensor:
    """The weight (h, w) of each pixel of a window."""
    if blend == "even":
        return torch.ones(window)
    return hann(window[0])[:, None] * hann(window[1])


def _score_padded(score: Score, images: Tensor, window: Size, pad: Tensor | None) -> Tensor:
    height, width = images.shape[-2:]
    bottom, right = max(0, window[0] - height), max(0, window[1] - width)
    if pad is None or bottom == right == 0:
        return score(images)
    return score(pad_with(images, (0, right, 0, bottom), pad))[:, :height, :width]


def pad_with(images: Tensor, sides: tuple[int, int, int, int], value: Tensor) -> Tensor:
    """Pad (B, C, H, W) by (left, right, top, bottom) pixels of colour ``value`` (C, 1, 1).

    >>> pad_with(torch.ones(1, 1, 1, 1), (0, 1, 1, 0), torch.full((1, 1, 1), 5.0))[0, 0]
    tensor([[5., 5.],
            [1., 5.]])
    """
    left, right, top, bottom = sides
    batch, channels, height, width = images.shape
    padded = value.expand(batch, channels, top + height + bottom, left + width + right).clone()
    padded[..., top : top + height, left : left + width] = images
    return padded


def size_of(x: Tensor) -> Size:
    """(height, width) of a tensor (..., H, W)."""
    return x.shape[-2], x.shape[-1]


def scaled(size: Size, scale: float) -> Size:
    """``size`` times ``scale``, rounded half up, at least one pixel.

    >>> scaled((5, 7), 0.5), scaled((5, 7), 0.01)
    ((3, 4), (1, 1))
    """
    return max(1, _half_up(size[0] * scale)), max(1, _half_up(size[1] * scale))


def _half_up(value: float) -> int:
    """The nearest integer, halves rounded up.

    >>> _half_up(2.5), round(2.5)
    (3, 2)
    """
    return int(value + 0.5)


def long_side(size: Size, long: int, rounding: Callable[[float], int] = _half_up) -> Size:
    """``size`` scaled in proportion to a long side of ``long``; the other side is rounded.

    >>> long_side((480, 640), 2048), long_side((640, 480), 2048)
    ((1536, 2048), (2048, 1536))
    """
    height, width = size
    if height > width:
        return long, max(1, rounding(width * long / height))
    return max(1, rounding(height * long / width)), long


def fitted(size: Size, fit: Size) -> Size:
    """``size`` scaled in proportion to the largest that ``fit`` (short, long side) allows.

    >>> fitted((1024, 2048), (1025, 2049)), fitted((640, 480), (512, 2048))
    ((1025, 2049), (683, 512))
    """
    return scaled(size, min(max(fit) / max(size), min(fit) / min(size)))


def resize(x: Tensor, size: Size, *, align_corners: bool) -> Tensor:
    """Bilinear resize of (B, C, H, W) or (C, H, W); the same tensor if it already has ``size``.

    No anti-aliasing when downsampling, as in the published protocols.
    """
    if size_of(x) == size:
        return x
    batched = x if x.ndim == 4 else x[None]
    resized = F.interpolate(batched, size, mode="bilinear", align_corners=align_corners)
    return resized if x.ndim == 4 else resized[0]


def softmax_(logits: Tensor) -> Tensor:
    """Softmax over the classes of logits (K, H, W), in place, which saves a second such tensor.

    >>> softmax_(torch.tensor([1.0, 1.0]).reshape(2, 1, 1)).flatten()
    tensor([0.5000, 0.5000])
    """
    return normalise_(logits.sub_(logits.amax(0)).exp_())


def normalise_(scores: Tensor) -> Tensor:
    """Divide positive scores (K, H, W) in place so that each pixel's sum to 1."""
    return scores.div_(scores.sum(0).clamp_min_(torch.finfo(scores.dtype).tiny))  # no 0 / 0


def summed(parts: Iterable[Tensor]) -> Tensor:
    """The sum of tensors, into the first of them; the others are freed one by one.

    >>> summed(torch.full((2,), float(i)) for i in range(4))
    tensor([6., 6.])
    """
    rest = iter(parts)
    total = next(rest)
    for part in rest:
        total.add_(part)
        del part  # before the next one is computed
    return total
