"""Drawing regions: pixels equal those of pycocotools, and no file takes more than its image."""

import base64
import io
import zlib

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from scenewise.data.formats.label_studio import Brush, encode_brush
from scenewise.data.formats.outlines import outlines
from scenewise.data.formats.regions import Bitmap, Ellipse, Polygon, Runs, paint, rectangle
from scenewise.data.formats.supervisely import _unpack

SIZE = (23, 31)
RNG = np.random.default_rng(5)


def random_masks():
    """Masks of all densities and small sizes, and one of blobs with holes."""
    for _ in range(60):
        height, width = RNG.integers(1, 13, 2)
        yield RNG.random((height, width)) < RNG.choice([0.1, 0.5, 0.8, 1.0])
    y, x = np.mgrid[:60, :80]
    yield np.sin(x / 5) + np.cos(y / 4) > 0.3


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # coco.decode's
def test_polygons_have_the_pixels_of_pycocotools():
    for count in (3, 4, 7, 20):
        rings = [(RNG.random(2 * count) * 40 - 4).tolist() for _ in range(2)]
        expected = coco.decode(coco.merge(coco.frPyObjects(rings, *SIZE))).astype(bool)
        assert np.array_equal(Polygon(rings).mask(SIZE), expected)
        hole = [[2, 2, 20, 3, 11, 19]]
        inner = coco.decode(coco.frPyObjects(hole, *SIZE))[..., 0].astype(bool)
        assert np.array_equal(Polygon(rings, hole).mask(SIZE), expected & ~inner)


def test_outlines_drawn_again_are_the_mask():
    for mask in random_masks():
        drawn = np.zeros(mask.shape, int)
        for ring, area in outlines(mask):
            pixels = Polygon([ring]).mask(mask.shape)
            assert pixels.sum() == area
            drawn += pixels
        assert np.array_equal(drawn, mask)


def test_an_outline_has_corners_alone_and_a_hole_is_joined():
    frame = np.ones((5, 5), bool)
    frame[2, 2] = False
    ((ring, area),) = outlines(frame)
    assert area == 24
    assert len(ring) // 2 == 4 + 4 + 2  # square, hole, and where the line leaves and comes back
    diagonal = np.eye(2, dtype=bool)
    assert len(outlines(diagonal)) == 2
    assert outlines(np.zeros((3, 4), bool)) == []


def test_run_lengths_by_columns_and_by_rows():
    mask = RNG.random(SIZE) < 0.4
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert np.array_equal(Runs(encoded["counts"], SIZE).mask(SIZE), mask)
    rows = [0, 2, 1, 3]  # of a box of 2 x 3 pixels at x 4, y 5
    box = Runs(rows, (2, 3), (4, 5), by_columns=False).mask(SIZE)
    assert np.argwhere(box).tolist() == [[5, 4], [5, 5], [6, 4], [6, 5], [6, 6]]


def test_brush_strokes_come_back():
    for mask in random_masks():
        assert np.array_equal(Brush(bytes(encode_brush(mask)), mask.shape).mask(mask.shape), mask)


def test_brush_strokes_of_values_that_are_not_repeated():
    """The header, then two runs written by hand: four values as they are, eight times 9."""
    bits = f"{12:032b}{7:05b}" + "".join(f"{n:04b}" for n in (2, 3, 7, 15))
    bits += f"000{3:03b}" + "".join(f"{v:08b}" for v in (5, 6, 7, 0)) + f"100{7:03b}{9:08b}"
    bits += "0" * (-len(bits) % 8)
    stroke = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    assert Brush(stroke, (1, 3)).mask((1, 3)).tolist() == [[False, True, True]]


def test_ellipses_boxes_and_bitmaps():
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    circle = Ellipse((12, 9), (5, 5)).mask(SIZE)
    assert np.array_equal(circle, (x - 12) ** 2 + (y - 9) ** 2 <= 25)
    turned = Ellipse((12, 9), (6, 2), 90).mask(SIZE)
    assert np.array_equal(turned, Ellipse((12, 9), (2, 6)).mask(SIZE))
    box = np.zeros(SIZE, bool)
    box[4:9, 3:7] = True
    assert np.array_equal(rectangle(3, 4, 4, 5).mask(SIZE), box)
    assert np.array_equal(rectangle(7, 4, 5, 4, 90).mask(SIZE), box)  # about its top left corner
    for image in (
        Image.fromarray(np.full((5, 4), 255, np.uint8)),
        Image.new("RGBA", (4, 5), (0, 0, 0, 9)),
        Image.new("1", (4, 5), 1),
    ):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        assert np.array_equal(Bitmap(buffer.getvalue(), (3, 4)).mask(SIZE), box)


def test_small_regions_are_on_top_by_area_and_later_ones_else():
    small, large = rectangle(1, 1, 2, 2), rectangle(0, 0, 5, 5)
    assert paint([(1, small), (2, large)], (5, 5))[1, 1] == 2
    assert paint([(1, small), (2, large)], (5, 5), by_area=True)[1, 1] == 1
    assert paint([], (2, 3)).tolist() == [[0] * 3] * 2


@pytest.mark.parametrize(
    "shape",
    [
        Polygon([[0, 0, 1e300, 5, 3, 3]]),
        Polygon([[0, 0, float("nan"), 5, 3, 3]]),
        Polygon([[0, 0, 5]]),
        Polygon([[0, 0, 2**20, 0] * 8]),
        Runs([10**15], (10**9, 10**6)),
        Runs([3, 4], SIZE),
        Runs([0, 6], (2, 3), (30, 0), by_columns=False),
        Brush(bytes(encode_brush(np.ones((40, 40), bool))), SIZE),
        Brush(bytes(encode_brush(np.ones(SIZE, bool)))[:8], SIZE),
        Brush(b"\xff" * 20, SIZE),
        Ellipse((3, 3), (0, 2)),
    ],
)
def test_what_does_not_fit_the_image_is_refused(shape):
    with pytest.raises(ValueError, match=r"polygon|run lengths|region|brush stroke|ellipse"):
        shape.mask(SIZE)


def test_a_bitmap_that_unpacks_to_much_is_refused():
    bomb = base64.b64encode(zlib.compress(bytes(2**26 + 1), 9)).decode()
    with pytest.raises(ValueError, match="unpacks to more than"):
        _unpack(bomb)
    assert _unpack(base64.b64encode(zlib.compress(b"png")).decode()) == b"png"
    large = io.BytesIO()
    Image.new("1", (5000, 5000)).save(large, "PNG")
    with pytest.raises(ValueError, match="larger than its image"):
        Bitmap(large.getvalue()).mask(SIZE)
