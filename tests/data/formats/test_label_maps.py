from pathlib import Path

import numpy as np
import pytest

from scenewise.data.formats import FORMATS
from scenewise.data.formats.label_maps import (
    _UNKNOWN,
    color_table,
    id_table,
    read_colors,
    translate,
    voc_colors,
)
from scenewise.errors import UserError
from tests.data.formats.trees import ids, write_colors


def test_voc_colours_follow_the_kits_rule_up_to_the_last_id():
    colors = voc_colors(256)
    assert len(set(colors)) == 256
    assert colors[15] == (192, 128, 128)
    assert colors[20] == (0, 64, 128)
    assert colors[255] == (224, 224, 192)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int64])
def test_translation_is_the_same_for_every_integer_type(kind):
    table = id_table({3: 0, 7: 1}, ignored=[255, 5])
    mask = translate(np.array([[3, 7, 5]], dtype=kind), table, Path("a.png"), "x")
    assert mask.tolist() == [[0, 1, 255]]


@pytest.mark.parametrize("bad", [-1, 6, 255, 256, 60000])
def test_unknown_ids_are_refused_and_counted(bad):
    table = id_table({3: 0}, ignored=[])
    with pytest.raises(UserError, match=rf"'a.png' holds ids that are not x: {bad} \(2 pixels\)"):
        translate(np.array([[3, bad, bad]]), table, Path("a.png"), "x")


def test_no_format_uses_the_sentinel_as_a_class():
    assert _UNKNOWN > 171


def test_colours_are_looked_up_exactly(tmp_path):
    colors = {0: (1, 2, 3), 1: (3, 2, 1), 255: (224, 224, 192)}
    path = write_colors(tmp_path / "a.png", ids([0, 1, 255]), colors)
    table = color_table((colors[0], colors[1]), (colors[255],))
    assert np.array_equal(read_colors(path, table, "x").numpy(), ids([0, 1, 255]))
    other = write_colors(tmp_path / "b.png", ids([0, 1]), {0: (1, 2, 3), 1: (3, 2, 2)})
    with pytest.raises(UserError, match=r"b.png' holds colours that are not x: \(3, 2, 2\) \(17 p"):
        read_colors(other, table, "x")


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"folder", "hugging_face", "stream"}))
def test_a_wrong_root_reports_what_was_expected(name, tmp_path):
    with pytest.raises(UserError) as empty:
        FORMATS[name].open(tmp_path, "train", None)
    assert "not found" in str(empty.value)
    assert "it is empty" in str(empty.value)
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="it holds images"):
        FORMATS[name].open(tmp_path, "train", None)
    with pytest.raises(UserError, match="does not exist"):
        FORMATS[name].open(tmp_path / "none", "train", None)
    file = tmp_path / "archive.zip"
    file.write_bytes(b"")
    with pytest.raises(UserError, match="is a file"):
        FORMATS[name].open(file, "train", None)
