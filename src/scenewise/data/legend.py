"""Images under the colours of their classes, and the legend of these colours."""

import numpy as np
from PIL import Image, ImageDraw

from scenewise.classes import Classes

_LINE, _MARGIN, _COLUMN = 14, 6, 160  # pixels
_IGNORED = (255, 255, 255)


def covered(image: Image.Image, ids: Image.Image, classes: Classes) -> Image.Image:
    """The image, blended half and half with the colours of its classes."""
    table = np.zeros((256, 3), dtype=np.uint8)  # id -> colour
    table[: len(classes)] = classes.colors
    table[classes.ignore_index] = _IGNORED
    return Image.blend(image, Image.fromarray(table[np.asarray(ids)]), 0.5)


def legend(classes: Classes, width: int) -> Image.Image:
    """Colour and name of every class."""
    columns = max(1, width // _COLUMN)
    entries = [*zip(classes.names, classes.colors, strict=True), ("(ignored)", _IGNORED)]
    rows = -(-len(entries) // columns)
    legend = Image.new("RGB", (width, rows * _LINE + _MARGIN), "black")
    draw = ImageDraw.Draw(legend)
    for k, (name, color) in enumerate(entries):
        x, y = k % columns * _COLUMN, k // columns * _LINE + _MARGIN
        draw.rectangle((x + 2, y, x + 14, y + _LINE - 4), fill=color)
        draw.text((x + 20, y - 2), name.encode("ascii", "replace").decode()[:22], fill="white")
    return legend
