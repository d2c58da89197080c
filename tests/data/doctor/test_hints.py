import numpy as np
import pytest

from scenewise.classes import Classes
from scenewise.data import open_dataset
from scenewise.data.doctor.hints import hint_for_colors, hint_for_ids
from tests.data.formats.own_trees import own_tree, table, truth


@pytest.mark.parametrize(
    ("count", "ids", "words"),
    [
        (19, range(34), "labelIds (0 to 33), not trainIds"),
        (19, [0, 18, 19], "19 is one past the last class: if it is void"),
        (150, range(151), "zero label not reduced"),
        (59, range(60), "59/60"),
        (171, range(172), "zero label not reduced"),
        (171, [0, 181], "171/182"),
        (171, [0, 182, 255], "171/182"),
        (11, range(12), "if ids count from 1, put a class for 0"),
        (3, range(0, 250, 4), "grey levels of an image"),
        (2, [0, 255], "if 255 is an object"),
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
    assert hint_for_ids([0, 2, 255], Classes.numbered(2, ignore_index=2)) is None  # both are void?
    assert hint_for_ids([0, 1, 2], Classes.numbered(2, ignore_index=2)) is None


@pytest.mark.parametrize(
    ("stored", "followed", "meaning"),
    [
        ((0, 1, 2), {"names": ["a", "b"], "ignore_index": 2}, (0, 1, 2)),  # 2 is void
        ((1, 2, 0), {"names": ["none", "a", "b"]}, (1, 2, 0)),  # ids count from 1
        ((0, 1, 255), {"names": ["a", "b"], "ignore_index": 255}, (0, 1, 255)),
    ],
)
def test_following_a_hint_gives_the_right_ids(tmp_path, stored, followed, meaning):
    data = open_dataset(own_tree(tmp_path, followed, table(*stored), 3))
    for k in range(3):
        assert np.array_equal(data[k]["mask"], np.array(meaning, np.uint8)[truth(k, 3)])
    assert data.classes.names == tuple(followed["names"])


def test_what_colours_look_like():
    classes = Classes.numbered(3)
    pixels = np.array(classes.colors, dtype=np.uint8).reshape(1, 3, 3)
    assert "the colours of the classes;" in hint_for_colors(pixels, classes)
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert "not the colours of the classes" in hint_for_colors(noise, classes)
