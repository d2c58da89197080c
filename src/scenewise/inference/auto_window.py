"""Prediction that goes over to windows by itself where the memory is short."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TypeVar

from torch import Tensor

from scenewise.data.images import ImageLike, as_floats
from scenewise.errors import UserError
from scenewise.exports.runtime import EngineSegmenter
from scenewise.inference.predictor import Prediction, Predictor
from scenewise.inference.sliding_window import Size, pair, scaled, size_of
from scenewise.memory import free_bytes, ran_out
from scenewise.models.cost import estimate
from scenewise.models.segmenter import Segmenter

Result = TypeVar("Result")
SIDES = (1024, 768, 512, 384, 256, 128)  # of the windows that are tried
SHARE = 0.8  # of the free memory that may be planned with
BESIDE = 40  # bytes a pixel: floats, normalised floats, how often windows hold it, the results
SAMPLE = 256  # side of the picture from which small needs are guessed


class AutoWindowPredictor:
    """A :class:`~scenewise.Predictor` that takes smaller windows where memory is short.

    Before a picture, the estimate for it is compared with the memory that is free; and where the
    memory runs out nevertheless, the picture is done again in smaller windows. The labels are then
    those of the same predictor with ``window=side``, exactly. Published protocols have windows of
    their own and are not changed.

    Args:
        predictor: what is wanted.
        tell: is called with a sentence when another window is taken.

    Attributes:
        side: of the windows of the last picture, if they are smaller than was wanted; else None.

    >>> import torch
    >>> from scenewise import create_model
    >>> model = create_model("fcn", num_classes=2, backbone="tiny")
    >>> fitting = AutoWindowPredictor(Predictor(model))
    >>> fitting(torch.rand(3, 41, 67)).labels.shape, fitting.side
    (torch.Size([41, 67]), None)
    """

    def __init__(self, predictor: Predictor, tell: Callable[[str], object] | None = None) -> None:
        self.predictor = predictor
        self.side: int | None = None
        self._tell = tell or (lambda sentence: None)
        self._told: set[int] = set()
        self._too_many: float = float("inf")  # pixels of the smallest picture that did not fit
        self._cost = lru_cache(maxsize=64)(partial(activation_bytes, predictor.model))

    @property
    def model(self) -> Segmenter:
        """The network."""
        return self.predictor.model

    def __call__(self, image: ImageLike) -> Prediction:
        """Label a picture; see :class:`~scenewise.inference.predictor.Predictor`."""
        return self._fitted(Predictor.__call__, image)

    def scores(self, image: ImageLike) -> Tensor:
        """Class scores (K, H, W); see :meth:`scenewise.inference.predictor.Predictor.scores`."""
        return self._fitted(Predictor.scores, image)

    def _fitted(self, work: Callable[[Predictor, ImageLike], Result], image: ImageLike) -> Result:
        picture = image if isinstance(image, Tensor) and image.ndim == 3 else as_floats(image)
        last = self.side if picture[0].numel() >= self._too_many else None
        sides = self.sides(size_of(picture), last)
        for side in sides:
            try:
                result = work(self.predictor.in_windows(side) if side else self.predictor, picture)
            except Exception as error:
                if not ran_out(error):
                    raise
            else:
                self._took(side, size_of(picture))
                return result
            self._too_many = min(self._too_many, picture[0].numel())
        raise UserError(self._too_large(size_of(picture), sides[-1]))

    def sides(self, size: Size, last: int | None = None) -> list[int | None]:
        """What to try for a picture of ``size``, in order: None is what was wanted.

        What cannot fit by the estimate is left out, unless nothing fits; with ``last``, windows
        larger than that are left out too.
        """
        smaller = (
            [] if self.predictor.published else list(smaller_sides(self.predictor.window, size))
        )
        if last in smaller:
            smaller = smaller[smaller.index(last) :]
        choices: list[int | None] = [*smaller] if last and smaller else [None, *smaller]
        free = free_bytes(next(self.model.parameters()).device)
        if free is None or isinstance(self.model, EngineSegmenter):
            return choices
        fits = (i for i, side in enumerate(choices) if self._fits(size, side, SHARE * free))
        return choices[next(fits, len(choices) - 1) :]

    def _fits(self, size: Size, side: int | None, free: float) -> bool:
        largest = scaled(size, max(self.predictor.scales))
        window = self.predictor.window if side is None else pair(side)
        several = len(self.predictor.scales) > 1 or self.predictor.flip
        sets = not self.predictor.at_once if window is None else 1 + several
        each = 4 * len(self.model.classes) * sets + BESIDE
        rest = each * largest[0] * largest[1]
        view = (
            largest if window is None else (min(largest[0], window[0]), min(largest[1], window[1]))
        )
        sample = self._cost((SAMPLE, SAMPLE)) / SAMPLE**2
        if 4 * sample * view[0] * view[1] + rest < free:
            return True  # most pictures: far from any limit
        return self._cost(view) + rest < free

    def _took(self, side: int | None, size: Size) -> None:
        self.side = side
        if side is not None and side not in self._told:
            self._told.add(side)
            self._tell(
                f"{size[0]} x {size[1]} pixels do not fit into the memory; predicted in windows of "
                f"{side} x {side}, as --window {side} does"
            )

    def _too_large(self, size: Size, side: int | None) -> str:
        told = f"out of memory: {size[0]} x {size[1]} pixels do not fit"
        if side is None:
            return f"{told} with these windows or this protocol; make the picture smaller"
        return (
            f"{told} even in windows of {side} x {side}; make the picture smaller, give fewer "
            "--scales, or use a machine with more memory"
        )


def smaller_sides(window: Size | None, size: Size) -> list[int]:
    """The windows that hold less than the picture, or than the window that was wanted.

    >>> smaller_sides(None, (600, 2000)), smaller_sides((512, 512), (600, 2000))
    ([1024, 768, 512, 384, 256, 128], [384, 256, 128])
    """
    limit = size if window is None else _smaller(size, window)
    return [side for side in SIDES if _smaller(limit, pair(side)) != limit]


def activation_bytes(model: Segmenter, size: Size) -> int:
    """What the network holds at most, beside its weights, for one picture of that size.

    0 where that cannot be counted; then the picture is tried.
    """
    try:
        return estimate(model, size).activation_bytes
    except Exception:  # a network of somebody's own parts, which may do anything
        return 0


def _smaller(size: Size, other: Size) -> Size:
    return min(size[0], other[0]), min(size[1], other[1])
