"""Label images: indexed PNGs with a palette, and overlays of labels on images."""

import os
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from scenewise.classes import Classes, Color
from scenewise.data.images import ImageLike, as_floats
from scenewise.errors import UserError
from scenewise.files import atomic_write
from scenewise.inference.sliding_window import size_of

Labels = Tensor | NDArray[np.integer]
_ROWS = 64  # blended at once, so that no float copy of the whole image is held
NOTE = "scenewise"  # key of the text chunk in a PNG


def colorize(labels: Labels, classes: Classes) -> Image.Image:
    """An indexed image: one byte per pixel, the class id, and the palette of ``classes``.

    Ids without a class, such as the ignore index, are black.

    Raises:
        UserError: ids outside 0..255, or not (H, W).

    >>> image = colorize(torch.tensor([[0, 1, 255]]), Classes(("a", "b"), ((1, 2, 3), (4, 5, 6))))
    >>> image.mode, image.convert("RGB").getpixel((1, 0)), int(np.asarray(image)[0, 2])
    ('P', (4, 5, 6), 255)
    """
    image = Image.fromarray(_ids(labels))
    image.putpalette(classes.palette())  # the mode becomes P
    return image


def overlay(
    image: ImageLike, labels: Labels, classes: Classes, opacity: float = 0.5
) -> Image.Image:
    """The image blended with the colours of its labels.

    Pixels whose id has no class keep their colour.

    Args:
        image: as a :class:`~scenewise.inference.predictor.Predictor` takes it.
        labels: (H, W) class ids, of the size of the image.
        classes: the colours.
        opacity: of the colours, 0..1.

    Raises:
        UserError: sizes that differ, an opacity outside 0..1.

    >>> red = Classes(("a",), ((255, 0, 0),))
    >>> overlay(torch.zeros(3, 1, 2), torch.tensor([[0, 255]]), red, 0.2).getpixel((0, 0))
    (51, 0, 0)
    """
    if not 0 <= opacity <= 1:
        raise UserError(f"opacity must be in 0..1, not {opacity:g}")
    pixels = image if _is_bytes(image) else as_floats(image)  # (3, H, W)
    ids = torch.from_numpy(_ids(labels))
    if size_of(pixels) != size_of(ids):
        raise UserError(
            f"image of {_size(pixels[0])} and labels of {_size(ids)} differ in size; give both in "
            "the same size"
        )
    colors = torch.tensor(classes.palette()).view(256, 3) / 255
    drawn = np.empty((*ids.shape, 3), np.uint8)
    for top in range(0, len(ids), _ROWS):
        rows = slice(top, top + _ROWS)
        block, classes_of = as_floats(pixels[:, rows]).permute(1, 2, 0).cpu(), ids[rows].long()
        weight = (opacity * (classes_of < len(classes)))[..., None]  # (rows, W, 1)
        blended = block * (1 - weight) + colors[classes_of] * weight  # (rows, W, 3)
        drawn[rows] = blended.mul(255).round().byte().numpy()
    return Image.fromarray(drawn)


def zoomed(image: Image.Image, width: int) -> Image.Image:
    """The image by a whole factor, each pixel a square, so that it is at least ``width`` wide.

    >>> zoomed(Image.new("RGB", (192, 64)), 500).size
    (576, 192)
    """
    factor = max(1, -(-width // image.width))  # rounded up
    return image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)


def hatched(image: Image.Image, region: Tensor) -> Image.Image:
    """The image with diagonal stripes, white and black, over a region.

    Args:
        image: RGB.
        region: (h, w) of bool; covers the image, at any size.

    >>> stripes = np.asarray(hatched(Image.new("RGB", (8, 8), "red"), torch.eye(2) > 0))
    >>> stripes[0, :4, 1].tolist(), stripes[0, 4:, 0].tolist()
    ([255, 255, 0, 0], [255, 255, 255, 255])
    """
    mask = Image.fromarray(region.cpu().numpy().astype(np.uint8))
    inside = np.asarray(mask.resize(image.size, Image.Resampling.NEAREST)) > 0  # (H, W)
    diagonal = np.add.outer(np.arange(image.height), np.arange(image.width)) % 8
    drawn = np.array(image)
    drawn[inside & (diagonal < 2)] = 255
    drawn[inside & (diagonal >= 2) & (diagonal < 4)] = 0
    return Image.fromarray(drawn)


def _is_bytes(image: ImageLike) -> TypeGuard[Tensor]:
    return isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3


def save_labels(
    path: str | os.PathLike[str], labels: Labels, classes: Classes, note: str | None = None
) -> None:
    """Write labels (H, W) as an indexed PNG, whole or not at all.

    A note is kept as a text chunk; ``PIL.Image.open(path).info["scenewise"]`` reads it.

    Raises:
        UserError: the file cannot be written, or its name does not end in .png.
    """
    if os.path.splitext(path)[1].lower() != ".png":
        raise UserError(f"labels are written as PNG, not '{os.fspath(path)}'; choose a .png name")
    options = {}
    if note is not None:
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_text(NOTE, note)
    save_image(path, colorize(labels, classes), **options)


def save_image(path: str | os.PathLike[str], image: Image.Image, **options: Any) -> None:
    """Write an image, whole or not at all; the suffix chooses the format.

    Args:
        path: the file.
        image: what to write.
        options: of Pillow's ``save`` for the format.

    Raises:
        UserError: the file cannot be written, or Pillow does not know the suffix.
    """
    try:
        with atomic_write(path) as temporary:
            image.save(temporary, quality=90, **options)  # JPEG's quality; PNG ignores it
    except ValueError as error:
        raise UserError(f"cannot write '{os.fspath(path)}': {error}; choose .png") from error


def shares(labels: Labels, classes: Classes) -> list[tuple[str, Color, float]]:
    """Name, colour and share of the pixels of each class that occurs, by decreasing share.

    >>> shares(torch.tensor([[0, 1, 1, 255]]), Classes.numbered(3))
    [('class_1', (...), 0.5), ('class_0', (...), 0.25)]
    """
    ids = _ids(labels)
    counts = np.bincount(ids.ravel(), minlength=256)[: len(classes)]
    order = sorted(np.flatnonzero(counts), key=lambda k: -counts[k])
    return [(classes.names[k], classes.colors[k], float(counts[k] / ids.size)) for k in order]


def _ids(labels: Labels) -> NDArray[np.uint8]:
    array = labels.cpu().numpy() if isinstance(labels, Tensor) else labels
    if array.ndim != 2 or array.size == 0:
        raise UserError(f"labels must be (H, W), not {array.shape}; convert them")
    if array.min() < 0 or array.max() > 255:
        raise UserError(f"labels range from {array.min()} to {array.max()}; class ids are 0 to 255")
    return np.ascontiguousarray(array.astype(np.uint8))


def _size(x: Tensor) -> str:
    return f"{x.shape[0]} x {x.shape[1]}"
