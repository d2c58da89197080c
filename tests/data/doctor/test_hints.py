import numpy as np
import pytest

from scenewise.classes import Classes
from scenewise.data.doctor.hints import hint_for_colors, hint_for_ids


@pytest.mark.parametrize(
    ("count", "ids", "words"),
    [
        (19, range(34), "labelIds (0 to 33), not trainIds"),
        (19, [0, 18, 19], "255 is missing: 19"),
        (150, range(151), "zero label not reduced"),
        (59, range(60), "59/60"),
        (171, range(172), "zero label not reduced"),
        (171, [0, 181], "171/182"),
        (171, [0, 182, 255], "171/182"),
        (11, range(12), "255 is missing: 11"),
        (3, range(0, 250, 4), "grey levels of an image"),
        (2, [0, 255], "write 1 instead of 255"),
        (2, [255], None),
        (2, [0, 1, 255], None),
        (19, [*range(19), 255], None),
        (19, [], None),
        (5, [0, 77], None),
        (19, [0, 200], None),
    ],
)
def test_what_ids_look_like(count, ids, words):
    hint = hint_for_ids(ids, Classes.numbered(count))
    assert hint is None if words is None else words in hint


def test_another_ignored_id():
    assert "set ignore_index to 255" in hint_for_ids([0, 255], Classes.numbered(2, ignore_index=2))
    assert hint_for_ids([0, 1, 2], Classes.numbered(2, ignore_index=2)) is None


def test_what_colours_look_like():
    classes = Classes.numbered(3)
    pixels = np.array(classes.colors, dtype=np.uint8).reshape(1, 3, 3)
    assert "the colours of the classes;" in hint_for_colors(pixels, classes)
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert "not the colours of the classes" in hint_for_colors(noise, classes)
