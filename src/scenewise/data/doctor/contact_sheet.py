"""A contact sheet: one picture of some images of a dataset with their masks overlaid."""

import os
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw

from scenewise.classes import Classes
from scenewise.data.datasets import SegmentationDataset
from scenewise.data.value_range import ImageFormat, image_format
from scenewise.errors import UserError
from scenewise.files import atomic_write

_TILE, _LINE, _MARGIN = 240, 14, 6  # pixels
_IGNORED = (255, 255, 255)


def write_contact_sheet(
    datasets: Mapping[str, SegmentationDataset],
    path: str | os.PathLike[str],
    count: int = 8,
    columns: int = 4,
) -> None:
    """Write ``count`` images of each split, each above its overlay, and the legend of the colours.

    Images are spread evenly over a split; unreadable ones are skipped. Ignored pixels are white.

    Raises:
        UserError: the file cannot be written.
    """
    tiles = []
    for split, dataset in datasets.items():
        try:
            layout = dataset.layout
            images = image_format(dataset, layout.channels, pages=layout.pages)
        except UserError:  # none is readable
            continue
        total = min(count, len(dataset))
        for index in (i * len(dataset) // total for i in range(total)):
            try:
                tiles.append(_tile(dataset, index, split, images))
            except UserError:
                continue
    classes = next(iter(datasets.values())).classes if datasets else Classes.numbered(1)
    legend = _legend(classes, columns * _TILE)
    sizes = [tile.height for tile in tiles] or [0]
    rows = -(-len(tiles) // columns)  # rounded up
    sheet = Image.new("RGB", (columns * _TILE, rows * max(sizes) + legend.height), "black")
    for k, tile in enumerate(tiles):
        sheet.paste(tile, (k % columns * _TILE, k // columns * max(sizes)))
    sheet.paste(legend, (0, rows * max(sizes)))
    with atomic_write(path) as temporary:
        sheet.save(temporary, format="PNG")


def _overlay(image: Image.Image, ids: Image.Image, classes: Classes) -> Image.Image:
    """The image, blended half and half with the colours of its classes."""
    table = np.zeros((256, 3), dtype=np.uint8)  # id -> colour
    table[: len(classes)] = classes.colors
    table[classes.ignore_index] = _IGNORED
    return Image.blend(image, Image.fromarray(table[np.asarray(ids)]), 0.5)


def _tile(dataset: SegmentationDataset, index: int, split: str, images: ImageFormat) -> Image.Image:
    """Image above overlay, with the name below."""
    pixels, mask = dataset.read(index)
    image = Image.fromarray(images.display(pixels).permute(1, 2, 0).numpy())
    ids = Image.fromarray(mask.numpy())
    width = _TILE - _MARGIN
    height = max(1, min(_TILE, round(image.height * width / image.width)))
    resized = image.resize((width, height))
    covered = _overlay(
        resized, ids.resize((width, height), Image.Resampling.NEAREST), dataset.classes
    )
    tile = Image.new("RGB", (_TILE, 2 * _TILE + _LINE + _MARGIN), "black")
    tile.paste(resized, (0, 0))
    tile.paste(covered, (0, height))
    text = f"{split}: {dataset.names[index]}".encode("ascii", "replace").decode()
    ImageDraw.Draw(tile).text((2, 2 * height + 1), text[:38], fill="white")
    return tile.crop((0, 0, _TILE, 2 * height + _LINE + _MARGIN))


def _legend(classes: Classes, width: int) -> Image.Image:
    """Colour and name of every class."""
    columns = max(1, width // 160)
    entries = [*zip(classes.names, classes.colors, strict=True), ("(ignored)", _IGNORED)]
    rows = -(-len(entries) // columns)
    legend = Image.new("RGB", (width, rows * _LINE + _MARGIN), "black")
    draw = ImageDraw.Draw(legend)
    for k, (name, color) in enumerate(entries):
        x, y = k % columns * 160, k // columns * _LINE + _MARGIN
        draw.rectangle((x + 2, y, x + 14, y + _LINE - 4), fill=color)
        draw.text((x + 20, y - 2), name.encode("ascii", "replace").decode()[:22], fill="white")
    return legend
