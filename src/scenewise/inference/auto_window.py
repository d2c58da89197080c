"""AutoWindowPredictor: sliding windows of a fitting size where an image exceeds the memory."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import TypeVar

from torch import Tensor

from scenewise.data.images import ImageLike, as_values
from scenewise.errors import UserError
from scenewise.exports.runtime import EngineSegmenter
from scenewise.inference.predictor import Prediction, Predictor, layout_of
from scenewise.inference.sliding_window import Size, pair, scaled, size_of
from scenewise.memory import free_bytes, ran_out
from scenewise.models.cost import estimate
from scenewise.models.segmenter import Segmenter

_Result = TypeVar("_Result")
_SIDES = (1024, 768, 512, 384, 256, 128)  # candidate windows, in pixels
_SHARE = 0.8  # of the free memory that the estimate may use; the rest is for what it misses
_PIXEL_BYTES = 40  # besides the network: floats, normalised floats, window counts, the results
_PLENTY = 8192  # bytes a pixel; networks take 500 to 2000, attention between all positions aside
_PROBE = 256  # side of the image whose cost is scaled to recognise images far below the limit


class AutoWindowPredictor:
    """A :class:`~scenewise.Predictor` that takes smaller windows where memory is short.

    Before each image, its estimated memory is compared with the memory that is free; where memory
    runs out nevertheless, the image is repeated in smaller windows. The labels are then exactly
    those of the same predictor with ``window=side, blend="hann"``: these windows are a matter of
    memory, so they fade into each other. Published protocols define their own windows and are not
    changed.

    Args:
        predictor: what is used while the memory suffices.
        report: called with one sentence when a smaller window is taken for the first time.

    Attributes:
        side: of the windows of the last image if smaller than those of ``predictor``, else None.

    >>> import torch
    >>> from scenewise import create_model
    >>> model = create_model("fcn", num_classes=2, backbone="tiny")
    >>> predictor = AutoWindowPredictor(Predictor(model))
    >>> predictor(torch.rand(3, 41, 67)).labels.shape, predictor.side
    (torch.Size([41, 67]), None)
    """

    def __init__(
        self, predictor: Predictor, report: Callable[[str], object] = lambda sentence: None
    ) -> None:
        self.predictor = predictor
        self.side: int | None = None
        self._report = report
        self._reported: set[int] = set()
        self._too_many: float = float("inf")  # pixels of the smallest image that did not fit
        self._too_many_together: float = float("inf")  # of the smallest batch
        self._cost = lru_cache(maxsize=64)(partial(_activation_bytes, predictor))

    @property
    def model(self) -> Segmenter:
        """The network."""
        return self.predictor.model

    def __call__(self, image: ImageLike, *, keep: bool = False) -> Prediction:
        """Label an image; see :class:`~scenewise.inference.predictor.Predictor`."""

        def label(predictor: Predictor, values: ImageLike) -> Prediction:
            return predictor(values, keep=keep)

        return self._first_that_fits(label, image)

    def decide(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Labels of class scores; see :meth:`scenewise.inference.predictor.Predictor.decide`."""
        return self.predictor.decide(scores)

    def scores(self, image: ImageLike) -> Tensor:
        """Class scores (K, H, W); see :meth:`scenewise.inference.predictor.Predictor.scores`."""
        return self._first_that_fits(Predictor.scores, image)

    def batch(self, images: Sequence[Tensor]) -> list[Prediction] | None:
        """Label images (C, H, W) of one size in one pass of the network.

        Returns:
            See :meth:`scenewise.inference.predictor.Predictor.batch`; None if the memory does not
            suffice for all of them at once, though it may for each.
        """
        pixels, count = images[0][0].numel(), len(images)
        if count * pixels >= self._too_many_together or pixels >= self._too_many:
            return None
        free = self._free()
        if free is not None and not self._fits(size_of(images[0]), None, _SHARE * free / count):
            return None
        try:
            predictions = self.predictor.batch(images, count)
        except Exception as error:
            if not ran_out(error):
                raise
            self._too_many_together = count * pixels
            return None
        self.side = None
        return predictions

    def _first_that_fits(
        self, predict: Callable[[Predictor, ImageLike], _Result], image: ImageLike
    ) -> _Result:
        image = (
            image
            if isinstance(image, Tensor) and image.ndim == 3
            else as_values(image, layout_of(self.model))
        )
        pixels = image[0].numel()
        sides = self.candidates(size_of(image), self.side if pixels >= self._too_many else None)
        for side in sides:
            try:
                result = predict(self.predictor.in_windows(side) if side else self.predictor, image)
            except Exception as error:
                if not ran_out(error):
                    raise
            else:
                self._accept(side, size_of(image))
                return result
            self._too_many = min(self._too_many, pixels)
        raise UserError(_too_large(size_of(image), sides[-1]))

    def candidates(self, size: Size, last: int | None = None) -> list[int | None]:
        """Windows to try for an image of ``size``, in order; None is the predictor unchanged.

        Those that cannot fit by the estimate are left out, except the smallest; with ``last``, also
        windows larger than that.
        """
        smaller = [] if self.predictor.published else smaller_sides(self.predictor.window, size)
        if last in smaller:
            smaller = smaller[smaller.index(last) :]
        sides: list[int | None] = [*smaller] if last and smaller else [None, *smaller]
        free = self._free()
        if free is None:
            return sides
        fits = (i for i, side in enumerate(sides) if self._fits(size, side, _SHARE * free))
        return sides[next(fits, len(sides) - 1) :]

    def _free(self) -> int | None:
        """Free bytes; None where there is nothing to compare."""
        if isinstance(self.model, EngineSegmenter):
            return None
        return free_bytes(next(self.model.parameters()).device)

    def _fits(self, size: Size, side: int | None, free: float) -> bool:
        largest = scaled(size, max(self.predictor.scales))
        window = self.predictor.window if side is None else pair(side)
        several = len(self.predictor.scales) > 1 or self.predictor.flip
        score_sets = not self.predictor.at_once if window is None else 1 + several
        pixel_bytes = 4 * len(self.model.classes) * score_sets + _PIXEL_BYTES  # float32 scores
        rest = pixel_bytes * largest[0] * largest[1]
        view = largest if window is None else _minimum(largest, window)
        pairs = (view[0] * view[1] / 64) ** 2  # of positions at stride 8
        if _PLENTY * view[0] * view[1] + 16 * pairs + rest < free:
            return True  # small against the memory: no estimate, which takes a second at start-up
        probe = self._cost((_PROBE, _PROBE)) / _PROBE**2
        if 4 * probe * view[0] * view[1] + rest < free:
            return True  # most images: far from any limit, so no estimate for their own size
        return self._cost(view) + rest < free

    def _accept(self, side: int | None, size: Size) -> None:
        self.side = side
        if side is not None and side not in self._reported:
            self._reported.add(side)
            self._report(
                f"{size[0]} x {size[1]} pixels do not fit into the memory; predicted in windows of "
                f"{side} x {side}, as with --window {side} --blend hann"
            )


def smaller_sides(window: Size | None, size: Size) -> list[int]:
    """The candidate windows that cover less than an image of ``size``, or than ``window``.

    >>> smaller_sides(None, (600, 2000)), smaller_sides((512, 512), (600, 2000))
    ([1024, 768, 512, 384, 256, 128], [384, 256, 128])
    """
    limit = size if window is None else _minimum(size, window)
    return [side for side in _SIDES if _minimum(limit, pair(side)) != limit]


def _activation_bytes(predictor: Predictor, size: Size) -> int:
    """Peak memory of the network, besides its weights, for one image of that size.

    0 where that cannot be estimated; then the image is simply tried.
    """
    try:
        return estimate(predictor.network, size).activation_bytes
    except Exception:  # a network of custom parts, which may raise anything
        return 0


def _minimum(size: Size, other: Size) -> Size:
    return min(size[0], other[0]), min(size[1], other[1])


def _too_large(size: Size, side: int | None) -> str:
    start = f"out of memory: {size[0]} x {size[1]} pixels do not fit"
    if side is None:
        return f"{start} with this window or this protocol; downscale the image"
    return (
        f"{start} even in windows of {side} x {side}; downscale the image, give fewer --scales, "
        "or use a machine with more memory"
    )
