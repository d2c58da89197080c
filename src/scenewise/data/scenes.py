"""Generated street scenes, in which some classes can only be recognised by distant context."""

import math

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from scenewise.classes import Classes, Color
from scenewise.data.datasets import SegmentationDataset, Transform
from scenewise.errors import UserError

CLASSES = Classes(
    names=(
        "road",
        "sidewalk",
        "building",
        "sky",
        "tree",
        "pole",
        "sign",
        "person",
        "car",
        "red signal",
        "blue signal",
        "green signal",
        "purple signal",
        "taxi",
        "ambulance",
        "open shop",
        "closed shop",
    ),
    colors=(
        (128, 64, 128),
        (244, 35, 232),
        (90, 90, 90),
        (70, 130, 180),
        (60, 140, 40),
        (190, 190, 190),
        (220, 220, 0),
        (220, 20, 60),
        (0, 0, 142),
        (255, 90, 90),
        (110, 110, 255),
        (120, 255, 120),
        (200, 80, 255),
        (250, 170, 30),
        (0, 220, 220),
        (0, 230, 90),
        (150, 60, 10),
    ),
)
_ROAD, _SIDEWALK, _BUILDING, _SKY, _TREE, _POLE, _SIGN, _PERSON, _CAR = range(9)  # class ids
_SIGNALS = ((9, 10), (11, 12))
_VANS = (13, 14)
_SHOPS = (15, 16)
# Colours of the two signals for the first and the second class of their pair.
_VAN_CUES: tuple[Color, Color] = ((235, 30, 30), (30, 40, 235))
_SHOP_CUES: tuple[Color, Color] = ((35, 200, 70), (210, 50, 225))


class Scenes(SegmentationDataset):
    """``length`` street scenes, drawn on demand; nothing is stored.

    Scene ``i`` is a pure function of ``(seed, i, size)``. There are 17 classes of very different
    size, with thin objects, occlusion, varying light and noise. Two pairs of classes look the same:
    vans are taxis or ambulances, shops are open or closed. A round signal at the far side of the
    image decides: the colour of one signal gives the class of all vans, that of the other of all
    shops. Every pixel of a signal is at least a third of the image's width away from every pixel
    that it decides, and both colours are equally frequent, so a network whose receptive field is
    smaller can only guess. A deep dilated backbone does see that far; use a small one to show the
    benefit of attention.

    Args:
        length: number of scenes; any four in a row hold the four combinations of the signals.
        size: (height, width) in pixels; at least (16, 48). Objects are drawn in proportion.
        seed: another seed gives other scenes.
        transform: joint transform of image and mask.

    Raises:
        UserError: no scenes, a size too small, or a negative seed.

    >>> scenes = Scenes(4, size=(64, 192), seed=0)
    >>> image, mask = scenes.read(0)
    >>> image.shape, mask.shape
    (torch.Size([3, 64, 192]), torch.Size([64, 192]))
    >>> [scenes.classes.names[k] for k in Scenes.context_classes]
    ['taxi', 'ambulance', 'open shop', 'closed shop']
    """

    context_pairs = (_VANS, _SHOPS)
    context_classes = _VANS + _SHOPS

    def __init__(
        self,
        length: int,
        size: tuple[int, int] = (64, 192),
        seed: int = 0,
        transform: Transform | None = None,
    ) -> None:
        if length < 1 or seed < 0 or size[0] < 16 or size[1] < 48:
            raise UserError(
                f"cannot draw {length} scenes of size {tuple(size)} with seed {seed}; give at "
                "least 1 scene, 16 rows, 48 columns and a seed of 0 or more"
            )
        super().__init__([f"scene_{i:05d}" for i in range(length)], CLASSES, transform)
        self.size = (int(size[0]), int(size[1]))
        self.seed = seed

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = _draw_scene(self.seed, index, self.size)
        return torch.from_numpy(image).permute(2, 0, 1).contiguous(), torch.from_numpy(mask)


def _draw_scene(
    seed: int, index: int, size: tuple[int, int], cues: tuple[int, int] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one scene: image (H, W, 3) and mask (H, W).

    ``cues`` is which class of each pair the two signals show; ``None`` for the scene's own. Apart
    from the classes in the mask, it changes nothing but the colours of the two signals.
    """
    rng = np.random.default_rng((seed, index))
    if cues is None:
        code = (seed + index) % 4  # any four scenes in a row hold all combinations
        cues = (code % 2, code // 2)
    canvas = _Canvas(size)
    ground = _backdrop(canvas, rng)
    van_limit, shop_limit = _signals(canvas, rng, cues)
    _shops(canvas, rng, shop_limit, _SHOPS[cues[1]])
    _clutter(canvas, rng, ground)
    _vans(canvas, rng, van_limit, _VANS[cues[0]])
    _foreground(canvas, rng)
    image = _light(np.asarray(canvas.image), rng)
    mask = np.array(canvas.mask)
    if rng.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]  # mirrored
    return np.ascontiguousarray(image), np.ascontiguousarray(mask)


class _Canvas:
    """An image and its mask, drawn together from back to front.

    ``unit`` is the length of one pixel of a 64 x 192 scene; colours are RGB, labels class ids.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.height, self.width = size
        self.unit = min(self.height / 64, self.width / 192)
        self.image = Image.new("RGB", (self.width, self.height))
        self.mask = Image.new("L", (self.width, self.height))
        self._brushes = ImageDraw.Draw(self.image), ImageDraw.Draw(self.mask)

    def box(self, x0: float, y0: float, x1: float, y1: float, color: Color, label: int) -> None:
        """Fill the columns x0 <= x < x1 and the rows y0 <= y < y1."""
        left, top = math.ceil(x0), math.ceil(y0)
        corners = (
            left,
            top,
            max(left, math.ceil(x1) - 1),
            max(top, math.ceil(y1) - 1),
        )  # inclusive
        self._brushes[0].rectangle(corners, fill=color)
        self._brushes[1].rectangle(corners, fill=label)

    def oval(self, x: float, y: float, rx: float, ry: float, color: Color, label: int) -> None:
        corners = (round(x - rx), round(y - ry), round(x + rx), round(y + ry))
        self._brushes[0].ellipse(corners, fill=color)
        self._brushes[1].ellipse(corners, fill=label)


def _backdrop(canvas: _Canvas, rng: Generator) -> float:
    """Sky with clouds, a skyline with windows, sidewalk and road; returns the horizon's row."""
    height, width, unit = canvas.height, canvas.width, canvas.unit
    horizon = height * rng.uniform(0.48, 0.56)
    curb = horizon + height * rng.uniform(0.12, 0.2)
    canvas.box(0, 0, width, horizon, _color(rng, (130, 175, 225), 25), _SKY)
    for _ in range(3):
        x, y = rng.uniform(0, width), rng.uniform(0, horizon)
        canvas.oval(x, y, 14 * unit, 3 * unit, _color(rng, (225, 230, 235), 15), _SKY)
    x = -rng.uniform(0, 20) * unit
    while x < width:
        wide, tall = rng.uniform(18, 40) * unit, rng.uniform(0.35, 0.95) * horizon
        if rng.random() < 0.85:  # else a gap
            _building(canvas, rng, x, horizon - tall, x + wide, horizon)
        x += wide
    for x in rng.uniform(0, width, size=rng.integers(2, 5)):
        _tree(canvas, rng, x, horizon + 2 * unit)
    canvas.box(0, horizon, width, curb, _color(rng, (165, 150, 150), 15), _SIDEWALK)
    canvas.box(0, curb, width, height, _color(rng, (85, 85, 92), 15), _ROAD)
    middle = (curb + height) / 2
    for x in np.arange(rng.uniform(-20, 0) * unit, width, 20 * unit):
        canvas.box(x, middle, x + 9 * unit, middle + 1.5 * unit, (205, 205, 195), _ROAD)
    return horizon


def _building(canvas: _Canvas, rng: Generator, x0: float, y0: float, x1: float, y1: float) -> None:
    wall = _color(rng, (150, 118, 98), 30)
    pane = _color(rng, (70, 80, 95), 20)
    unit = canvas.unit
    canvas.box(x0, y0, x1, y1, wall, _BUILDING)
    for x in np.arange(x0 + 2 * unit, x1 - 4 * unit, 6 * unit):
        for y in np.arange(y0 + 2 * unit, y1 - 5 * unit, 7 * unit):
            canvas.box(x, y, x + 3 * unit, y + 4 * unit, pane, _BUILDING)


def _tree(canvas: _Canvas, rng: Generator, x: float, foot: float) -> None:
    unit, tall = canvas.unit, rng.uniform(14, 26) * canvas.unit
    canvas.box(x - unit, foot - tall, x + unit, foot, (95, 70, 45), _TREE)
    for _ in range(4):
        dx, dy = rng.uniform(-4, 4, size=2) * unit
        radius = rng.uniform(4, 7) * unit
        canvas.oval(x + dx, foot - tall + dy, radius, radius, _color(rng, (50, 115, 45), 20), _TREE)


def _signals(canvas: _Canvas, rng: Generator, cues: tuple[int, int]) -> tuple[float, float]:
    """Draw the vans' signal at the left and the shops' at the right.

    Returns:
        The first column that vans may use, and the first that shops may not.
    """
    unit, width = canvas.unit, canvas.width
    edges = []
    for side, colors in enumerate((_VAN_CUES, _SHOP_CUES)):
        radius = rng.uniform(12, 20) * unit
        x = radius + rng.uniform(0, 5) * unit
        y = rng.uniform(radius - 3 * unit, 20 * unit)  # in the sky
        color, label = colors[cues[side]], _SIGNALS[side][cues[side]]
        canvas.oval(x if side == 0 else width - x, y, radius, radius, color, label)
        edges.append(x + radius + width / 3 + 2)  # 2 for rounding
    return edges[0], width - edges[1]


def _shops(canvas: _Canvas, rng: Generator, limit: float, label: int) -> None:
    """One or two shops left of column ``limit``: a striped awning over a dark window."""
    unit = canvas.unit
    foot = canvas.height * rng.uniform(0.74, 0.82)
    for start, stop in _slots(rng, 0.0, limit, 24 * unit, 38 * unit):
        top = foot - rng.uniform(17, 21) * unit
        cloth = _color(rng, (215, 120, 40), 25)
        canvas.box(start, top, stop, foot, _color(rng, (110, 60, 75), 15), label)
        canvas.box(start + 3 * unit, top, stop - 3 * unit, foot - 4 * unit, (45, 40, 60), label)
        canvas.box(start, top, stop, top + 7 * unit, cloth, label)
        for x in np.arange(start, stop - 3 * unit, 6 * unit):
            canvas.box(x, top, x + 3 * unit, top + 7 * unit, (240, 232, 215), label)


def _vans(canvas: _Canvas, rng: Generator, limit: float, label: int) -> None:
    """One or two vans right of column ``limit``: pale boxes with windows and wheels."""
    unit = canvas.unit
    for start, stop in _slots(rng, limit, float(canvas.width), 26 * unit, 40 * unit):
        foot = canvas.height * rng.uniform(0.84, 0.96)
        top = foot - rng.uniform(17, 22) * unit
        canvas.box(start, top, stop, foot - 2 * unit, _color(rng, (232, 226, 190), 12), label)
        pane = _color(rng, (60, 75, 95), 12)
        canvas.box(start + 2 * unit, top + 3 * unit, stop - 2 * unit, top + 8 * unit, pane, label)
        for x in (start + 6 * unit, stop - 6 * unit):
            canvas.oval(x, foot - 3 * unit, 3 * unit, 3 * unit, (25, 25, 28), label)


def _slots(
    rng: Generator, start: float, stop: float, narrowest: float, widest: float
) -> list[tuple[float, float]]:
    """One or two ranges of columns inside start..stop, one in each half."""
    half = (stop - start) / 2
    chosen = (0, 1) if rng.random() < 0.7 else (int(rng.integers(2)),)
    slots = []
    for k in chosen:
        wide = min(rng.uniform(narrowest, widest), half - 1)
        left = start + k * half + rng.uniform(0, half - wide)
        slots.append((left, left + wide))
    return slots


def _clutter(canvas: _Canvas, rng: Generator, horizon: float) -> None:
    """Cars behind the vans, and poles with a sign."""
    unit = canvas.unit
    for x in rng.uniform(0, canvas.width, size=rng.integers(1, 4)):
        foot = canvas.height * rng.uniform(0.8, 0.93)
        paint = _color(rng, (45, 95, 120), 35)
        wide = rng.uniform(15, 22) * unit
        canvas.box(x, foot - 7 * unit, x + wide, foot - unit, paint, _CAR)
        canvas.box(
            x + 4 * unit, foot - 10 * unit, x + wide - 4 * unit, foot - 7 * unit, paint, _CAR
        )
        for wheel in (x + 4 * unit, x + wide - 4 * unit):
            canvas.oval(wheel, foot - unit, 2 * unit, 2 * unit, (25, 25, 28), _CAR)
    for x in rng.uniform(0, canvas.width, size=rng.integers(1, 4)):
        top = horizon - rng.uniform(8, 22) * unit
        canvas.box(x, top, x + 1.5 * unit, horizon + 8 * unit, (60, 60, 62), _POLE)
        side, plate = rng.uniform(3, 4.5) * unit, _color(rng, (240, 215, 40), 12)
        canvas.box(x - side, top - side, x + side, top + side, plate, _SIGN)


def _foreground(canvas: _Canvas, rng: Generator) -> None:
    """People, who occlude parts of what is behind them."""
    unit = canvas.unit
    for x in rng.uniform(0, canvas.width, size=rng.integers(1, 5)):
        foot = canvas.height * rng.uniform(0.72, 0.98)
        coat = _color(rng, (130, 45, 120), 30)
        canvas.box(x - 2.5 * unit, foot - 12 * unit, x + 2.5 * unit, foot - 5 * unit, coat, _PERSON)
        for leg in (x - 2.5 * unit, x + 0.5 * unit):
            canvas.box(leg, foot - 5 * unit, leg + 2 * unit, foot, (40, 40, 70), _PERSON)
        canvas.oval(x, foot - 14 * unit, 2.5 * unit, 2.5 * unit, (225, 175, 145), _PERSON)


def _light(image: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
    """Brightness, a colour cast, light from one side and sensor noise."""
    height, width, _ = image.shape
    gain = rng.uniform(0.65, 1.2) * rng.uniform(0.94, 1.06, size=3)
    slope = 1 + rng.uniform(-0.15, 0.15) * np.linspace(-1, 1, width)
    scale = (slope[:, None] * gain).astype(np.float32)  # (W, 3)
    noise = rng.standard_normal((height, width, 3), dtype=np.float32)  # of the sensor
    lit = image * scale + np.float32(rng.uniform(3, 10)) * noise
    return np.clip(lit, 0, 255).astype(np.uint8)


def _color(rng: Generator, base: Color, spread: int) -> Color:
    """A random colour near ``base``: each channel at most ``spread`` away."""
    red, green, blue = (
        int(c + d) for c, d in zip(base, rng.uniform(-spread, spread, 3), strict=True)
    )
    return (min(max(red, 0), 255), min(max(green, 0), 255), min(max(blue, 0), 255))
