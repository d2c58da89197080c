"""What the page keeps of one visitor: an image and what each network predicted and recorded.

A state is immutable and every step returns a new one, so visitors cannot mix, and a step that fails
or is stopped leaves the previous state as it was. Nothing in this module depends on Gradio.
"""

import io
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor, nn

from scenewise.data.images import decode_image
from scenewise.data.layout import RGB, Layout
from scenewise.data.tiff import is_tiff, tiff_size
from scenewise.errors import UserError
from scenewise.inference.auto_window import AutoWindowPredictor, smaller_sides
from scenewise.inference.predictor import Prediction, Predictor
from scenewise.inference.sliding_window import intervals, pair, two_thirds
from scenewise.memory import ran_out
from scenewise.models.segmenter import Segmenter
from scenewise.visualize.attention_maps import AttentionMaps, Place, attention_maps
from scenewise.visualize.statistics import switched_off

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_VISITORS = 16  # whose states are kept; the oldest is dropped first
MAX_SECONDS = 3600  # for which it is kept
MAX_BYTES = 20 * 2**20  # of an uploaded file
MAX_PIXELS = 2**23  # 2048 x 4096
_WHOLE_PIXELS = 2**21  # 1024 x 2048: larger images are predicted in windows
_WINDOW = 768  # side of these windows
FUSED = "fused"
WITHOUT = "without "

Report = Callable[[float], None]  # receives the share of the work that is done, 0..1


class Stopped(UserError):
    """The visitor stopped the work."""


@dataclass(frozen=True)
class Network:
    """A model under its name on the page; the lock lets one visitor at a time record it."""

    name: str
    model: Segmenter
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def branches(self) -> tuple[str, ...]:
        """The scores it offers: DANet's branches, and the model with each block switched off."""
        own = [hasattr(self.model.head, f"classify_{name}") for name in ("position", "channel")]
        whole = (FUSED, "position", "channel") if all(own) else (FUSED,)
        return (*whole, *(f"{WITHOUT}{name}" for name in self.maps.blocks()))

    @cached_property
    def fitting(self) -> AutoWindowPredictor:
        """Estimates which window fits into memory; hold the lock while using it."""
        return AutoWindowPredictor(Predictor(self.model))

    @cached_property
    def maps(self) -> AttentionMaps:
        """Its blocks, with nothing recorded."""
        with attention_maps(self.model) as maps:
            return maps


class _Box(NamedTuple):
    """Rows and columns of an image, the last ones excluded."""

    top: int
    left: int
    bottom: int
    right: int

    def of(self, x: Tensor) -> Tensor:
        """The part of (..., H, W) inside."""
        return x[..., self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True)
class View:
    """The blocks of a network, recorded over a part of the image."""

    box: _Box
    maps: AttentionMaps


@dataclass(frozen=True)
class Result:
    """What one network computed for the image.

    Attributes:
        predictions: by branch; labels are uint8.
        view: the recorded blocks; None for an image in windows until a pixel is marked.
    """

    predictions: Mapping[str, Prediction]
    view: View | None


@dataclass(frozen=True)
class VisitorState:
    """One visitor's image and all that was computed for it.

    Attributes:
        name: of the image file.
        image: (C, H, W), as the networks take it; of RGB uint8.
        at: the marked pixel (row, column).
        results: by the name of the network.
        side: of the windows, where memory was too short for the usual ones or for the whole image.
    """

    name: str
    image: Tensor
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

    def predicted(self, network: Network, branch: str, report: Report) -> "VisitorState":
        """This state with the prediction of a branch of ``network``, computed if it is missing.

        The windows get smaller where memory is too short, or would be by the estimate.
        """
        if branch in self.results.get(network.name, Result({}, None)).predictions:
            return self
        return self._fitting(network)._narrowing(lambda s: s._predict(network, branch, report))

    def recorded(self, network: Network, report: Report) -> "VisitorState":
        """This state with the blocks of ``network`` recorded around the marked pixel.

        For an image in windows: those of the window whose centre is nearest, run again if needed.
        """
        return self._narrowing(lambda s: s._record(network, report))

    def _predict(self, network: Network, branch: str, report: Report) -> "VisitorState":
        result = self.results.get(network.name, Result({}, None))
        runs = len(windows(self.size, self.window)) if self.window else 1
        with _recording(network, runs, report) as maps, _only_branch(network.model, branch):
            labels, confidence = Predictor(network.model, window=self.window)(self.image)
        predictions = {**result.predictions, branch: Prediction(labels.byte(), confidence)}
        # in windows, the recording is that of the last window, which nobody asked for
        keep = self.window or (branch.startswith(WITHOUT) and result.view is not None)
        view = result.view if keep else _view(_Box(0, 0, *self.size), maps)
        return self._with(network, Result(predictions, view))

    def _record(self, network: Network, report: Report) -> "VisitorState":
        result = self.results[network.name]
        if self.window is None or self.at is None:
            return self
        box = _nearest_window(self.at, self.size, self.window)
        if result.view is not None and result.view.box == box:
            return self
        with _recording(network, 1, report) as maps:
            Predictor(network.model)(box.of(self.image))
        return self._with(network, replace(result, view=_view(box, maps)))

    def _fitting(self, network: Network) -> "VisitorState":
        """This state with smaller windows, if by the estimate the usual ones do not fit."""
        with network.lock:
            sides = network.fitting.candidates(self.size)  # None is the image as a whole
        usual = self.window
        smaller = [side for side in sides if side is not None and side < (usual or side + 1)]
        fits = sides[0] is None or (usual is not None and usual >= sides[0])
        return self if fits or not smaller else replace(self, side=smaller[0])

    def _narrowing(self, step: "Callable[[VisitorState], VisitorState]") -> "VisitorState":
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

    def marked(self, row: int, column: int) -> "VisitorState":
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

    def _with(self, network: Network, result: Result) -> "VisitorState":
        return replace(self, results={**self.results, network.name: result})


def read_upload(path: Path, name: str, layout: Layout = RGB) -> Tensor:
    """The uploaded image in file ``path``, called ``name``: (C, H, W), of RGB uint8.

    Raises:
        UserError: too many bytes or pixels, not an image of a supported format, or one of other
            channels or bits than ``layout``.
    """
    formats = f"supported are {', '.join(FORMATS)}"
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UserError(
            f"'{name}' has {size / 2**20:.1f} MiB, more than the limit of "
            f"{MAX_BYTES // 2**20}; save it smaller"
        )
    content = path.read_bytes()
    try:
        height, width = _size_of(content)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"'{name}' claims far too many pixels; {formats}") from error
    except Exception as error:  # decoders raise errors of many types on broken files
        raise UserError(f"'{name}' is not a readable image; {formats}") from error
    most = 3 * MAX_PIXELS // (layout.count * (4 if layout.wide else 1))  # that many bytes
    if width * height > most:
        raise UserError(
            f"'{name}' has {height} x {width} pixels, more than the limit of "
            f"{most / 1e6:.1f} million; make it smaller, or use scenewise predict"
        )
    try:
        return decode_image(content, name, layout)
    except UserError as error:
        if isinstance(error.__cause__, UserError):  # other channels or bits
            raise
        raise UserError(f"'{name}' is damaged; {formats}") from error


def _size_of(content: bytes) -> tuple[int, int]:
    """Height and width, from the header of an image."""
    if is_tiff(content):
        return tiff_size(content)
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        return image.height, image.width


def windows(size: tuple[int, int], side: int) -> list[_Box]:
    """The windows of ``side`` pixels in which an image is predicted.

    >>> windows((700, 1300), 768)
    [_Box(top=0, left=0, bottom=700, right=768), _Box(top=0, left=512, bottom=700, right=1280), ...]
    """
    stride = two_thirds(pair(side))[0]
    rows, columns = (intervals(length, side, stride) for length in size)
    return [_Box(t, left, b, right) for t, b in rows for left, right in columns]


def _nearest_window(at: Place, size: tuple[int, int], side: int) -> _Box:
    """The window whose centre is nearest to the pixel ``at``.

    >>> _nearest_window((300, 1000), (700, 1300), 768)
    _Box(top=0, left=532, bottom=700, right=1300)
    """

    def distance(box: _Box) -> float:
        rows, columns = box.top + box.bottom, box.left + box.right  # twice the centre
        return (2 * at[0] - rows) ** 2 + (2 * at[1] - columns) ** 2

    return min(windows(size, side), key=distance)


@contextmanager
def _only_branch(model: Segmenter, branch: str) -> Iterator[None]:
    """Inside, the scores of ``model`` are those of one branch, or without one block."""
    if branch == FUSED:
        yield
        return
    if branch.startswith(WITHOUT):
        with switched_off(model, branch.removeprefix(WITHOUT)):
            yield
        return
    head: Any = model.head
    features: list[Tensor] = []
    classify = getattr(head, f"classify_{branch}")  # its own classifier, trained as auxiliary
    handles = [
        getattr(head, branch).register_forward_hook(lambda m, x, out: features.append(out)),
        head.register_forward_hook(lambda m, x, out: out._replace(logits=classify(features[-1]))),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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


def _view(box: _Box, maps: AttentionMaps) -> View:
    """A view in which what all pixels of a block share is already computed, for a fast click."""
    for block in maps.positions.values():
        with suppress(UserError):  # a block without maps reports this when it is shown
            block.rows([(0, 0)])
    return View(box, maps)


@contextmanager
def _recording(network: Network, runs: int, report: Report) -> Iterator[AttentionMaps]:
    model = network.model
    with network.lock, _reporting(model, runs, report), attention_maps(model) as maps:
        yield maps
