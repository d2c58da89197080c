"""What the page keeps of one visitor: a picture, and what networks made of it.

A session never changes; every step gives a new one, so visitors cannot mix and a step that fails
or is stopped leaves the last one as it was. There is no Gradio here.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor, nn

from scenewise.data.images import read_image
from scenewise.errors import UserError
from scenewise.inference.auto_window import AutoWindowPredictor, smaller_sides
from scenewise.inference.predictor import Prediction, Predictor
from scenewise.inference.sliding_window import intervals, pair, two_thirds
from scenewise.memory import ran_out
from scenewise.models.segmenter import Segmenter
from scenewise.visualize.attention_maps import AttentionMaps, Place, attention_maps
from scenewise.visualize.statistics import switched_off

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_SESSIONS = 16
MAX_SECONDS = 3600
MAX_BYTES = 20 * 2**20
MAX_PIXELS = 2**23
WHOLE_PIXELS = 2**21
WINDOW = 768
FUSED = "fused"
WITHOUT = "without "

Tell = Callable[[float], None]


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
        """The scores it can give: of DANet's branches, and with each block switched off."""
        own = [hasattr(self.model.head, f"classify_{name}") for name in ("position", "channel")]
        whole = (FUSED, "position", "channel") if all(own) else (FUSED,)
        return (*whole, *(f"{WITHOUT}{name}" for name in self.maps.blocks()))

    @cached_property
    def fitting(self) -> AutoWindowPredictor:
        """Knows what fits into the memory; to be asked under the lock."""
        return AutoWindowPredictor(Predictor(self.model))

    @cached_property
    def maps(self) -> AttentionMaps:
        """Its blocks, with nothing recorded."""
        with attention_maps(self.model) as maps:
            return maps


class Box(NamedTuple):
    """Rows and columns of a picture, the last ones excluded."""

    top: int
    left: int
    bottom: int
    right: int

    def of(self, x: Tensor) -> Tensor:
        """The part of (..., H, W) inside."""
        return x[..., self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True)
class View:
    """The blocks of a network, recorded over a part of the picture."""

    box: Box
    maps: AttentionMaps


@dataclass(frozen=True)
class Look:
    """What one network made of the picture.

    Attributes:
        predictions: by branch; labels are uint8.
        view: the recorded blocks; None for a picture in windows until a pixel is asked for.
    """

    predictions: Mapping[str, Prediction]
    view: View | None


@dataclass(frozen=True)
class Session:
    """One visitor's work.

    Attributes:
        name: of the picture's file.
        picture: (3, H, W), uint8.
        at: the marked pixel (row, column).
        looks: by the name of the network.
        side: of the windows, where memory was too short for the usual ones or for the whole.
    """

    name: str
    picture: Tensor
    at: Place | None = None
    looks: Mapping[str, Look] = field(default_factory=dict)
    side: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self.picture.shape[1], self.picture.shape[2]

    @property
    def window(self) -> int | None:
        """Side of the windows in which the picture is predicted; None predicts it whole."""
        large = self.size[0] * self.size[1] > WHOLE_PIXELS
        return self.side or (WINDOW if large else None)

    @property
    def in_windows(self) -> bool:
        """Whether the picture is too large to be predicted whole."""
        return self.window is not None

    def seen(self, network: Network, branch: str, tell: Tell) -> "Session":
        """This session with the prediction of a branch of ``network``, made if it is not there.

        Where memory is too short, or by the estimate would be, in smaller windows.
        """
        if branch in self.looks.get(network.name, Look({}, None)).predictions:
            return self
        return self._fitting(network)._narrowing(lambda s: s._predicted(network, branch, tell))

    def viewed(self, network: Network, tell: Tell) -> "Session":
        """This session with the blocks of ``network`` recorded around the marked pixel.

        In windows, it is the one in whose middle the pixel is most nearly, run again if need be.
        """
        return self._narrowing(lambda s: s._recorded(network, tell))

    def _predicted(self, network: Network, branch: str, tell: Tell) -> "Session":
        look = self.looks.get(network.name, Look({}, None))
        runs = len(windows(self.size, self.window)) if self.window else 1
        with _recording(network, runs, tell) as maps, only_branch(network.model, branch):
            labels, confidence = Predictor(network.model, window=self.window)(self.picture)
        found = {**look.predictions, branch: Prediction(labels.byte(), confidence)}
        kept = self.in_windows or (branch.startswith(WITHOUT) and look.view is not None)
        view = look.view if kept else _view(Box(0, 0, *self.size), maps)
        return self._with(network, Look(found, view))

    def _recorded(self, network: Network, tell: Tell) -> "Session":
        look = self.looks[network.name]
        if self.window is None or self.at is None:
            return self
        box = nearest_window(self.at, self.size, self.window)
        if look.view is not None and look.view.box == box:
            return self
        with _recording(network, 1, tell) as maps:
            Predictor(network.model)(box.of(self.picture))
        return self._with(network, replace(look, view=_view(box, maps)))

    def _fitting(self, network: Network) -> "Session":
        """This session with smaller windows, if the estimate says that there is no other way."""
        with network.lock:
            sides = network.fitting.candidates(self.size)
        usual = self.window
        small = [side for side in sides if side is not None and side < (usual or side + 1)]
        fits = sides[0] is None or (usual is not None and usual >= sides[0])
        return self if fits or not small else replace(self, side=small[0])

    def _narrowing(self, step: "Callable[[Session], Session]") -> "Session":
        """What ``step`` makes of this session; of one with smaller windows when memory runs out."""
        session = self
        window = None if self.window is None else pair(self.window)
        for side in (self.side, *smaller_sides(window, self.size)):
            session = replace(self, side=side)
            try:
                return step(session)
            except Exception as error:
                if not ran_out(error):
                    raise
        raise UserError(
            f"the memory is too short for {self.size[0]} x {self.size[1]} pixels even in windows "
            f"of {session.side} x {session.side}; take a smaller picture"
        )

    def marked(self, row: int, column: int) -> "Session":
        """This session with another marked pixel.

        Raises:
            UserError: the pixel is outside the picture.
        """
        if not (0 <= row < self.size[0] and 0 <= column < self.size[1]):
            raise UserError(
                f"pixel ({row}, {column}) is outside the picture; rows are 0 to "
                f"{self.size[0] - 1}, columns 0 to {self.size[1] - 1}"
            )
        return replace(self, at=(row, column))

    def _with(self, network: Network, look: Look) -> "Session":
        return replace(self, looks={**self.looks, network.name: look})


def read_picture(path: Path, name: str) -> Tensor:
    """The uploaded picture in file ``path``, called ``name``: (3, H, W), uint8.

    Raises:
        UserError: too many bytes or pixels, or no picture of a known kind.
    """
    kinds = f"take {', '.join(FORMATS)}"
    found = path.stat().st_size
    if found > MAX_BYTES:
        raise UserError(
            f"'{name}' has {found / 2**20:.1f} MiB and a picture here at most "
            f"{MAX_BYTES // 2**20}; save it smaller"
        )
    try:
        with Image.open(path, formats=FORMATS) as picture:
            width, height = picture.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"'{name}' has too many pixels to be real; {kinds}") from error
    except Exception as error:  # decoders of broken files raise errors of many kinds
        raise UserError(f"'{name}' is no picture that can be read; {kinds}") from error
    if width * height > MAX_PIXELS:
        raise UserError(
            f"'{name}' has {height} x {width} pixels and a picture here at most "
            f"{MAX_PIXELS / 1e6:.1f} million; make it smaller, or use scenewise predict"
        )
    try:
        return read_image(path)
    except UserError as error:
        raise UserError(f"'{name}' is damaged; {kinds}") from error


def windows(size: tuple[int, int], side: int) -> list[Box]:
    """The windows of ``side`` pixels in which a picture is predicted.

    >>> windows((700, 1300), 768)
    [Box(top=0, left=0, bottom=700, right=768), Box(top=0, left=512, bottom=700, right=1280), ...]
    """
    stride = two_thirds(pair(side))[0]
    rows, columns = (intervals(length, side, stride) for length in size)
    return [Box(t, left, b, right) for t, b in rows for left, right in columns]


def nearest_window(at: Place, size: tuple[int, int], side: int) -> Box:
    """The window in whose middle the pixel ``at`` is most nearly.

    >>> nearest_window((300, 1000), (700, 1300), 768)
    Box(top=0, left=532, bottom=700, right=1300)
    """

    def distance(box: Box) -> float:
        rows, columns = box.top + box.bottom, box.left + box.right
        return (2 * at[0] - rows) ** 2 + (2 * at[1] - columns) ** 2

    return min(windows(size, side), key=distance)


@contextmanager
def only_branch(model: Segmenter, branch: str) -> Iterator[None]:
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
    classify = getattr(head, f"classify_{branch}")
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
def watched(model: nn.Module, runs: int, tell: Tell) -> Iterator[None]:
    """Inside, ``tell`` hears before each layer how much of ``runs`` runs is done, 0..1.

    What it raises ends the run. Layers that other threads call meanwhile are not told of.
    """
    layers = [module for module in model.modules() if not any(module.children())]
    here, count = threading.get_ident(), 0

    def before(module: nn.Module, args: Any) -> None:
        nonlocal count
        if threading.get_ident() == here:
            tell(min(1.0, count / (runs * len(layers))))
            count += 1

    handles = [layer.register_forward_pre_hook(before) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _view(box: Box, maps: AttentionMaps) -> View:
    """A view whose first click finds ready what all pixels of a block share."""
    for block in maps.positions.values():
        with suppress(UserError):  # a block that cannot tell says so when it is asked
            block.rows([(0, 0)])
    return View(box, maps)


@contextmanager
def _recording(network: Network, runs: int, tell: Tell) -> Iterator[AttentionMaps]:
    model = network.model
    with network.lock, watched(model, runs, tell), attention_maps(model) as maps:
        yield maps
