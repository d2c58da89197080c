"""What the page keeps of an image: what each network predicted and recorded.

A state is immutable and every step returns a new one, so visitors cannot mix, and a step that fails
or is stopped leaves the previous state as it was.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from scenewise.apps.app.windows import Box, nearest_window, windows
from scenewise.attention.kernels.precision import upcast
from scenewise.errors import UserError
from scenewise.inference.auto_window import AutoWindowPredictor, smaller_sides
from scenewise.inference.predictor import Prediction, Predictor
from scenewise.inference.row_blocks import scores_at
from scenewise.inference.sliding_window import pair
from scenewise.memory import ran_out
from scenewise.models.segmenter import Segmenter
from scenewise.visualize.attention_maps import AttentionMaps, Place, attention_maps
from scenewise.visualize.statistics import switched_off

_WHOLE_PIXELS = 2**21  # 1024 x 2048: larger images are predicted in windows
_WINDOW = 768  # side of these windows
_GRADIENTS = 64  # maps kept for an image and a network

Report = Callable[[float], None]  # receives the share of the work that is done, 0..1


def silent(done: float) -> None:
    """A report to nobody."""


@dataclass(frozen=True)
class Network:
    """A model of the page; the lock lets one piece of work at a time record it.

    Attributes:
        name: of its folder, as short as it is unique.
        model: the model.
        score: its mIoU, 0..1, if it was scored.
    """

    name: str
    model: Segmenter
    score: float | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def fitting(self) -> AutoWindowPredictor:
        """Estimates which window fits into memory; hold the lock while using it."""
        return AutoWindowPredictor(Predictor(self.model, fast=False))

    @cached_property
    def maps(self) -> AttentionMaps:
        """Its blocks, with nothing recorded."""
        with attention_maps(self.model) as maps:
            return maps


@dataclass(frozen=True)
class View:
    """The blocks of a network, recorded over a part of the image.

    Attributes:
        box: that part.
        maps: the recorded blocks.
        logits: (K, h, w) by the block that was switched off; None for none.
    """

    box: Box
    maps: AttentionMaps
    logits: Mapping[str | None, Tensor]

    def inside(self, at: Place) -> Place:
        """The pixel ``at`` of the image, counted from the box."""
        return at[0] - self.box.top, at[1] - self.box.left

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the box."""
        return self.box.bottom - self.box.top, self.box.right - self.box.left

    def scores(self, model: Segmenter, at: Place, without: str | None = None) -> Tensor:
        """The class scores (K,) of the pixel ``at`` of the image."""
        multiple = getattr(model.backbone, "multiple", 1)
        height, width = (multiple * math.ceil(side / multiple) for side in self.size)
        logits = upcast(self.logits[without])
        corners = model.align_corners
        return scores_at(logits, (height, width), [self.inside(at)], align_corners=corners)[0].cpu()

    def joined(self, other: "View | None") -> "View":
        """This view, with what ``other`` has of the same part of the image."""
        if other is None or other.box != self.box:
            return self
        # without a block, the inputs of the blocks after it are others than those that are shown
        maps = self.maps if None in self.logits else other.maps
        return View(self.box, maps, {**other.logits, **self.logits})


@dataclass(frozen=True)
class Result:
    """What one network computed for the image.

    Attributes:
        predictions: by the block that was switched off, None for none; labels are uint8.
        view: the recorded blocks; None for an image in windows until a pixel is marked.
        gradients: maps (h, w) by the pixel and the window in which they were computed; the latest.
    """

    predictions: Mapping[str | None, Prediction] = field(default_factory=dict)
    view: View | None = None
    gradients: Mapping[tuple[Place, Box], Tensor] = field(default_factory=dict)

    def joined(self, other: "Result") -> "Result":
        """This result and what ``other``, of the same image and network, computed later."""
        view = self.view if other.view is None else other.view.joined(self.view)
        gradients = list({**self.gradients, **other.gradients}.items())[-_GRADIENTS:]
        return Result({**self.predictions, **other.predictions}, view, dict(gradients))


@dataclass(frozen=True)
class ImageState:
    """An image and all that was computed for it.

    Attributes:
        name: of the image file.
        image: (C, H, W), as the networks take it; of RGB uint8.
        shrunk_from: height and width of the file, if the image was too large.
        at: the marked pixel (row, column).
        results: by the name of the network.
        side: of the windows, where memory was too short for the usual ones or for the whole image.
    """

    name: str
    image: Tensor
    shrunk_from: tuple[int, int] | None = None
    at: Place | None = None
    results: Mapping[str, Result] = field(default_factory=dict)
    side: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.image.shape[1], self.image.shape[2]

    @property
    def window(self) -> int | None:
        """Side of the windows in which the image is predicted; None predicts it whole."""
        large = self.size[0] * self.size[1] > _WHOLE_PIXELS
        return self.side or (_WINDOW if large else None)

    def has(self, network: Network, without: str | None = None) -> bool:
        """Whether :meth:`computed` has nothing left to run."""
        result = self.results.get(network.name, Result())
        return all(
            off in result.predictions
            and (self._window_of_pixel() is None or self._seen(result, off))
            for off in (None, without)
        )

    def computed(
        self, network: Network, without: str | None = None, report: Report = silent
    ) -> "ImageState":
        """This state with the prediction of ``network``, and the same ``without`` a block.

        Of an image in windows with a marked pixel, the blocks are recorded in the window whose
        centre is nearest. The windows get smaller where memory is too short, or would be by the
        estimate.

        Raises:
            UserError: memory is too short for the smallest windows, or the block cannot be
                switched off.
        """
        if self.has(network, without):
            return self
        state = self if network.name in self.results else self._fitting(network)
        for off in dict.fromkeys((None, without)):  # first with all blocks
            if off not in state.results.get(network.name, Result()).predictions:
                state = state._narrowing(partial(_predict, network=network, off=off, report=report))
            state = state._narrowing(partial(_record, network=network, off=off, report=report))
        return state

    def _window_of_pixel(self) -> Box | None:
        """The window in which the blocks are recorded for the marked pixel."""
        if self.window is None or self.at is None:
            return None
        return nearest_window(self.at, self.size, self.window)

    def _seen(self, result: Result, without: str | None) -> bool:
        view = result.view
        return view is not None and view.box == self._window_of_pixel() and without in view.logits

    def merged(self, other: "ImageState") -> "ImageState":
        """This state with what ``other``, a state of the same image, has computed."""
        results = dict(self.results)
        for name, new in other.results.items():
            results[name] = results.get(name, Result()).joined(new)
        return replace(self, results=results, side=other.side or self.side)

    def _fitting(self, network: Network) -> "ImageState":
        """This state with smaller windows, if by the estimate the usual ones do not fit."""
        with network.lock:
            sides = network.fitting.candidates(self.size)  # None is the image as a whole
        usual = self.window
        smaller = [side for side in sides if side is not None and side < (usual or side + 1)]
        fits = sides[0] is None or (usual is not None and usual >= sides[0])
        return self if fits or not smaller else replace(self, side=smaller[0])

    def _narrowing(self, step: "Callable[[ImageState], ImageState]") -> "ImageState":
        """The result of ``step``, which is tried with smaller windows when memory runs out."""
        state = self
        window = None if self.window is None else pair(self.window)
        for side in (self.side, *smaller_sides(window, self.size)):
            state = replace(self, side=side)
            try:
                return step(state)
            except Exception as error:
                if not ran_out(error):
                    raise
        raise UserError(
            f"not enough memory for {self.size[0]} x {self.size[1]} pixels, even in windows "
            f"of {state.side} x {state.side}; upload a smaller image"
        )

    def marked(self, row: int, column: int) -> "ImageState":
        """This state with another marked pixel.

        Raises:
            UserError: the pixel is outside the image.
        """
        if not (0 <= row < self.size[0] and 0 <= column < self.size[1]):
            raise UserError(
                f"pixel ({row}, {column}) is outside the image; rows are 0 to "
                f"{self.size[0] - 1}, columns 0 to {self.size[1] - 1}"
            )
        return replace(self, at=(row, column))

    def with_gradient(self, network: Network, key: tuple[Place, Box], row: Tensor) -> "ImageState":
        """This state with one more gradient map of ``network``."""
        result = self.results[network.name]
        return self._with(network, result.joined(Result(gradients={key: row})))

    def _with(self, network: Network, result: Result) -> "ImageState":
        return replace(self, results={**self.results, network.name: result})


def _predict(state: ImageState, network: Network, off: str | None, report: Report) -> ImageState:
    result = state.results.get(network.name, Result())
    runs = len(windows(state.size, state.window)) if state.window else 1
    with _recording(network, off, runs, report) as recorded:
        labels, confidence = Predictor(network.model, window=state.window, fast=False)(state.image)
    predictions = {**result.predictions, off: Prediction(labels.byte(), confidence)}
    # in windows, the recording is that of the last window, which nobody asked for
    whole = Box(0, 0, *state.size)
    view = result.view if state.window else recorded.view(whole, off).joined(result.view)
    return state._with(network, replace(result, predictions=predictions, view=view))


def _record(state: ImageState, network: Network, off: str | None, report: Report) -> ImageState:
    result, box = state.results[network.name], state._window_of_pixel()
    if box is None or state._seen(result, off):
        return state
    with _recording(network, off, 1, report) as recorded:
        Predictor(network.model, fast=False)(box.of(state.image))
    return state._with(network, replace(result, view=recorded.view(box, off).joined(result.view)))


@contextmanager
def _reporting(model: nn.Module, runs: int, report: Report) -> Iterator[None]:
    """Inside, ``report`` is called before each layer with the share of ``runs`` runs that is done.

    An exception from it ends the run. Layers that other threads call meanwhile are not reported.
    """
    layers = [module for module in model.modules() if not any(module.children())]
    thread, count = threading.get_ident(), 0

    def before(module: nn.Module, args: Any) -> None:
        nonlocal count
        if threading.get_ident() == thread:
            report(min(1.0, count / (runs * len(layers))))  # a layer may be called twice
            count += 1

    handles = [layer.register_forward_pre_hook(before) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Recorded(NamedTuple):
    """What a network recorded: its blocks, and the logits of its latest run."""

    maps: AttentionMaps
    logits: deque[Tensor]

    def view(self, box: Box, off: str | None) -> View:
        """A view in which what all pixels of a block share is already computed, for a fast click.

        Of a run with a block switched off, only the logits are of use.
        """
        if off is None:
            for block in self.maps.positions.values():
                with suppress(UserError):  # a block without maps reports this when it is shown
                    block.rows([(0, 0)])
        return View(box, self.maps, {off: self.logits[-1]})


@contextmanager
def _recording(network: Network, off: str | None, runs: int, report: Report) -> Iterator[_Recorded]:
    """Inside, one thread at a time runs the network, without the block ``off``."""
    model = network.model
    logits: deque[Tensor] = deque(maxlen=1)
    with ExitStack() as stack:
        stack.enter_context(network.lock)
        stack.enter_context(_reporting(model, runs, report))
        if off is not None:
            stack.enter_context(switched_off(model, off))
        handle = model.head.register_forward_hook(lambda m, x, out: logits.append(out.logits[0]))
        stack.callback(handle.remove)
        yield _Recorded(stack.enter_context(attention_maps(model)), logits)
