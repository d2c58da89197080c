"""A contact sheet: one picture of some images of a dataset with their masks overlaid."""

import os
from collections.abc import Mapping

from PIL import Image, ImageDraw

from scenewise.classes import Classes
from scenewise.data.datasets import SegmentationDataset
from scenewise.data.legend import covered, legend
from scenewise.data.value_range import ImageFormat, image_format
from scenewise.errors import UserError
from scenewise.files import atomic_write

_TILE, _LINE, _MARGIN = 240, 14, 6  # pixels


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
    colors = legend(classes, columns * _TILE)
    sizes = [tile.height for tile in tiles] or [0]
    rows = -(-len(tiles) // columns)  # rounded up
    sheet = Image.new("RGB", (columns * _TILE, rows * max(sizes) + colors.height), "black")
    for k, tile in enumerate(tiles):
        sheet.paste(tile, (k % columns * _TILE, k // columns * max(sizes)))
    sheet.paste(colors, (0, rows * max(sizes)))
    with atomic_write(path) as temporary:
        sheet.save(temporary, format="PNG")


def _tile(dataset: SegmentationDataset, index: int, split: str, images: ImageFormat) -> Image.Image:
    """Image above overlay, with the name below."""
    pixels, mask = dataset.read(index)
    image = Image.fromarray(images.display(pixels).permute(1, 2, 0).numpy())
    ids = Image.fromarray(mask.numpy())
    width = _TILE - _MARGIN
    height = max(1, min(_TILE, round(image.height * width / image.width)))
    resized = image.resize((width, height))
    labels = ids.resize((width, height), Image.Resampling.NEAREST)
    tile = Image.new("RGB", (_TILE, 2 * _TILE + _LINE + _MARGIN), "black")
    tile.paste(resized, (0, 0))
    tile.paste(covered(resized, labels, dataset.classes), (0, height))
    text = f"{split}: {dataset.names[index]}".encode("ascii", "replace").decode()
    ImageDraw.Draw(tile).text((2, 2 * height + 1), text[:38], fill="white")
    return tile.crop((0, 0, _TILE, 2 * height + _LINE + _MARGIN))
