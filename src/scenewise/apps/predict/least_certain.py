"""``least_certain.png``: the images with the lowest mean confidence, each beside its labels."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from scenewise.apps.predict.manifest import stored_record
from scenewise.apps.predict.ranking import CONFIDENCE, Labelled
from scenewise.data.images import read_image, read_mask
from scenewise.data.legend import covered, legend
from scenewise.inference.predictor import display, layout_of
from scenewise.models.segmenter import Segmenter
from scenewise.visualize.overlay import save_image

_SIDE, _LINE, _MARGIN = 320, 18, 6  # pixels; an image is at most _SIDE wide and high


def write_least_certain(
    path: Path, results: Sequence[Labelled], count: int, model: Segmenter
) -> None:
    """Write the ``count`` images of the lowest mean confidence as one PNG, the lowest first.

    Each is shown beside its overlay, in which pixels without a class are white, under its name and
    its mean confidence; below are the colours of the classes.

    Raises:
        UserError: an image or its labels are unreadable, or the file cannot be written.
    """
    ranked = sorted((stored_record(r.labels)[CONFIDENCE][0], str(r.image), r) for r in results)
    tiles = [_tile(result, mean, model) for mean, _, result in ranked[:count]]
    columns = min(2, len(tiles))
    width = columns * tiles[0].width
    rows = [tiles[k : k + columns] for k in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) for row in rows]
    colors = legend(model.classes, width)
    sheet = Image.new("RGB", (width, sum(heights) + colors.height), "black")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for k, tile in enumerate(row):
            sheet.paste(tile, (k * tile.width, top))
        top += height
    sheet.paste(colors, (0, top))
    save_image(path, sheet)


def _tile(result: Labelled, mean: float, model: Segmenter) -> Image.Image:
    """Image and overlay side by side, with name and confidence above."""
    shown = display(read_image(result.image, layout_of(model)), model)  # (3, H, W)
    image = Image.fromarray(shown.permute(1, 2, 0).numpy())
    scale = _SIDE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    image = image.resize((width, height))
    ids = Image.fromarray(read_mask(result.labels).numpy())
    ids = ids.resize((width, height), Image.Resampling.NEAREST)
    tile = Image.new("RGB", (2 * (_SIDE + _MARGIN), _LINE + height + _MARGIN), "black")
    text = f"confidence {mean:.3f}: {_shortened(result.name)}"
    ImageDraw.Draw(tile).text((2, 1), text, fill="white", font=ImageFont.load_default(13))
    tile.paste(image, (0, _LINE))
    tile.paste(covered(image, ids, model.classes), (width + _MARGIN, _LINE))
    return tile


def _shortened(name: str) -> str:
    """The end of a long name, which says more than its folders.

    >>> len(_shortened("folder/" * 20 + "a")), _shortened("a")
    (60, 'a')
    """
    return name if len(name) <= 60 else f"...{name[-57:]}"
