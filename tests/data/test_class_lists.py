"""Class lists: every kind of file that tools write, to the same names, values and colours."""

from pathlib import Path

import pytest

from scenewise.data.class_lists import ClassList, find_class_list, read_class_list
from scenewise.data.formats.listing import list_root
from scenewise.errors import UserError

NAMES, COLORS = ("sea", "land"), ((0, 0, 255), (255, 128, 0))


@pytest.mark.parametrize(
    ("name", "text", "colors", "values"),
    [
        ("classes.json", '["sea", "land"]', False, None),
        ("classes.json", '{"names": ["sea", "land"]}', False, None),
        ("classes.json", '{"names": {"1": "land", "0": "sea"}}', False, None),
        ("classes.json", '{"0": "sea", "7": "land"}', False, (0, 7)),
        ("classes.json", '{"sea": 0, "land": 9}', False, (0, 9)),
        ("classes.json", '{"id2label": {"0": "sea", "1": "land"}}', False, None),
        ("classes.json", '{"names": ["sea", "land"], "colors": ["#00f", [255, 128, 0]]}', True,
         None),
        ("classes.json", '[{"name": "land", "id": 4, "color": "ff8000"}, {"name": "sea", "id": 1, '
         '"color": [0, 0, 255]}]', True, (1, 4)),
        ("classes.json", '{"sea": [0, 0, 255], "land": "#ff8000"}', True, None),
        ("classes.json", '{"#0000ff": "sea", "#ff8000": "land"}', True, None),
        ("classes.json", '{"0": {"name": "sea", "color": "#00f"}, "1": {"name": "land", "color": '
         '"#ff8000"}}', True, None),
        ("data.yaml", "path: .\ntrain: images\nnames:\n  0: sea\n  1: land\n", False, None),
        ("data.yaml", "nc: 2\nnames: [sea, land]\n", False, None),
        ("_classes.csv", "Pixel Value, Class\n0, sea\n1, land\n", False, None),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nsea:0,0,255::\nland:255,128,0::\n", True,
         None),
        ("labels.txt", "__ignore__\nsea\nland\n", False, None),
        ("labels.txt", "0 sea\n3 land\n", False, (0, 3)),
        ("dataset_meta.json", '{"label_map": {"0": "sea", "1": "land"}, "segmentation_colors": '
         "[[0, 0, 255], [255, 128, 0]]}", True, None),
        ("meta.json", '{"classes": [{"title": "sea", "shape": "bitmap", "color": "#0000FF", "id": '
         '3}, {"title": "land", "shape": "any", "color": "#FF8000", "id": 7}]}', True, None),
        ("mapping.json", '{"sea": 1, "land": 2}', False, (1, 2)),
        ("id2label.json", '{"0": "sea", "1": "land"}', False, None),
    ],
)  # fmt: skip
def test_kinds_of_files(
    tmp_path: Path, name: str, text: str, colors: bool, values: tuple[int, ...] | None
) -> None:
    (tmp_path / name).write_text(text)
    found = find_class_list(list_root(tmp_path))
    assert found == ClassList(NAMES, COLORS if colors else None, values, source=name)


@pytest.mark.parametrize(
    ("text", "ignore"), [("null", None), ("-100", None), ("255", 255), ("0", 0)]
)
def test_the_ignored_value(tmp_path: Path, text: str, ignore: int | None) -> None:
    path = tmp_path / "classes.json"
    path.write_text(f'{{"names": ["sea", "land"], "ignore_index": {text}}}')
    assert read_class_list(path).ignore == ignore


def test_files_of_the_splits_must_agree(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "_classes.csv").write_text("Pixel Value, Class\n0, sea\n1, land\n")
    found = find_class_list(list_root(tmp_path))
    assert found is not None
    assert (found.names, found.source) == (NAMES, "train/_classes.csv")
    (tmp_path / "valid/_classes.csv").write_text("Pixel Value, Class\n0, land\n1, sea\n")
    with pytest.raises(UserError, match="list different classes; remove one"):
        find_class_list(list_root(tmp_path))


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("classes.json", '["sea", "sea"]', "the name 'sea' is listed twice"),
        ("classes.json", '{"sea": 1, "land": 1}', "the value '1' is listed twice"),
        ("classes.json", '{"names": ["sea"], "colors": ["blue"]}', "'blue' is not a colour"),
        ("classes.json", "3", "a list or an object"),
        ("data.yaml", "names: [", "while parsing"),
        ("_classes.csv", "a,b\nx,y\n", "'x,y' is not a pixel value and a name"),
        ("labels.txt", "", "lists no class"),
    ],
)
def test_errors_are_plain(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=rf"cannot use class list .*{reason}"):
        find_class_list(list_root(tmp_path))
