"""What stored values mean: each way to store labels gives the same class ids, or a refusal."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scenewise.data import open_dataset
from scenewise.errors import UserError
from tests.data.formats.own_trees import Ids, colors, indexed, own_tree, table, truth
from tests.shared_data import shared

RED, GREEN, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 0)
THREE = ("bg", "disc", "box")
BLURRED = (0, 255, *range(40, 52))


def check(root: Path, count: int, names: tuple[str, ...], meaning: tuple[int, ...], **options: Any):
    """The masks of ``root`` are read as ``meaning[k]`` for class k of the truth."""
    data = open_dataset(root, **options)
    assert data.classes.names == names
    for k in range(3):
        expected = np.array(meaning, np.uint8)[truth(k, count)]
        assert np.array_equal(data[k]["mask"].numpy(), expected)


def one_bit(ids: Ids) -> Image.Image:
    return Image.fromarray(ids * 255).convert("1")


def with_opacity(mode: str) -> Callable[[Ids], Image.Image]:
    return lambda ids: Image.fromarray(ids * 255).convert(mode)


def sixteen_bits(ids: Ids) -> Image.Image:
    return Image.fromarray(ids.astype(np.uint16) * 65535)


@pytest.mark.parametrize(
    "stored",
    [
        *(table(0, 1), table(0, 255), table(0, 100), table(1, 2), table(100, 200), one_bit),
        *(with_opacity("LA"), with_opacity("RGB"), with_opacity("RGBA"), sixteen_bits),
        *(colors(BLACK, RED), indexed(BLACK, RED), indexed(BLACK, (7, 7, 7))),
    ],
)
def test_background_and_one_class(tmp_path: Path, stored: Callable[[Ids], Image.Image]) -> None:
    check(own_tree(tmp_path, stored=stored), 2, ("background", "disc"), (0, 1))


@pytest.mark.parametrize("stored", [table(0, 1), table(0, 255), table(0, 128), colors(BLACK, RED)])
def test_one_listed_class_is_background_plus_this_class(tmp_path: Path, stored: Any) -> None:
    check(own_tree(tmp_path, ("trail",), stored), 2, ("background", "trail"), (0, 1))


@pytest.mark.parametrize("stored", [table(0, 255), one_bit, sixteen_bits])
def test_two_values_without_a_class_list(tmp_path: Path, stored: Any) -> None:
    check(own_tree(tmp_path, None, stored), 2, ("background", "object"), (0, 1))


def test_values_without_a_class_list(tmp_path: Path) -> None:
    names = ("value_0", "value_100", "value_200")
    check(own_tree(tmp_path / "a", None, table(0, 100, 200), 3), 3, names, (0, 1, 2))
    names = ("#000000", "#00ff00", "#ff0000")
    check(own_tree(tmp_path / "b", None, colors(BLACK, RED, GREEN), 3), 3, names, (0, 2, 1))


@pytest.mark.parametrize(
    ("classes", "stored"),
    [
        (THREE, table(0, 1, 2)),
        (THREE, table(1, 2, 3)),
        (THREE, table(0, 100, 200)),
        (THREE, table(0, 127, 255)),
        (THREE, lambda ids: Image.fromarray(ids).convert("RGB")),
        ({"names": THREE, "ignore_index": 0}, table(1, 2, 3)),
        ({"names": THREE, "colors": ["#000000", "#f00", [0, 255, 0]]}, colors(BLACK, RED, GREEN)),
        ({"names": THREE, "colors": [BLACK, RED, GREEN]}, indexed(BLACK, RED, GREEN)),
        ({"7": "bg", "9": "disc", "40": "box"}, table(7, 9, 40)),
        ([{"id": 5, "name": "box"}, {"id": 0, "name": "bg"}, {"id": 3, "name": "disc"}],
         table(0, 3, 5)),
        ({"names": THREE, "labels": {"0": "bg", "50": "disc", "60": "box"}}, table(0, 50, 60)),
        ({"names": THREE, "labels": {"#000": "bg", "#f00": "disc", "#0f0": "box"}},
         colors(BLACK, RED, GREEN)),
    ],
)  # fmt: skip
def test_three_classes(tmp_path: Path, classes: Any, stored: Any) -> None:
    check(own_tree(tmp_path, classes, stored, 3), 3, THREE, (0, 1, 2))


def test_ids_from_1_whose_0_the_class_list_ignores(tmp_path: Path) -> None:
    root = own_tree(tmp_path, {"names": ["disc", "box"], "ignore_index": 0}, count=3)
    check(root, 3, ("disc", "box"), (255, 0, 1))


def test_a_palette_of_the_classes_colours_in_another_order_than_other_files(tmp_path: Path) -> None:
    classes = {"names": THREE, "colors": [BLACK, RED, GREEN]}

    def save(ids: Ids) -> Image.Image:  # the order differs from file to file
        swapped = np.array([1, 0, 2], np.uint8)[ids]
        return indexed(RED, BLACK, GREEN)(swapped) if ids[0, 0] else indexed(BLACK, RED, GREEN)(ids)

    check(own_tree(tmp_path, classes, save, 3), 3, THREE, (0, 1, 2))


AMBIGUOUS: list[tuple[Any, Any, dict[str, tuple[tuple[str, ...], tuple[int, ...]]]]] = [
    (
        ("disc", "box"),
        table(0, 1, 2),
        {
            "0=ignore,1=disc,2=box": (("disc", "box"), (255, 0, 1)),
            "0=background,1=disc,2=box": (("background", "disc", "box"), (0, 1, 2)),
            "0=disc,1=box,2=ignore": (("disc", "box"), (0, 1, 255)),
        },
    ),
    (
        THREE,
        table(0, 255, 0),
        {
            "0=bg,255=disc": (THREE, (0, 1, 0)),
            "0=bg,255=ignore": (THREE, (0, 255, 0)),
        },
    ),
    (
        {"names": ["bg", "disc"], "ignore_index": 255},
        table(0, 255, 0),
        {
            "0=bg,255=disc": (("bg", "disc"), (0, 1, 0)),
            "0=bg,255=ignore": (("bg", "disc"), (0, 255, 0)),
        },
    ),
    (
        THREE,
        table(1, 2, 1),
        {"1=bg,2=disc,3=box": (THREE, (0, 1, 0)), "stored": (THREE, (1, 2, 1))},
    ),
    (
        ("disc", "box"),
        table(0, 100, 200),
        {
            "0=ignore,100=disc,200=box": (("disc", "box"), (255, 0, 1)),
            "0=background,100=disc,200=box": (("background", "disc", "box"), (0, 1, 2)),
            "0=disc,100=box,200=ignore": (("disc", "box"), (0, 1, 255)),
        },
    ),
    (
        {"names": ["road", "sky", "tree"], "ignore_index": 0},
        table(0, 1, 2),
        {
            "0=ignore,1=road,2=sky,3=tree": (("road", "sky", "tree"), (255, 0, 1)),
            "stored": (("road", "sky", "tree"), (0, 1, 2)),
        },
    ),
    (
        {"1": "disc", "2": "box"},
        table(0, 1, 2),
        {
            "0=ignore,1=disc,2=box": (("disc", "box"), (255, 0, 1)),
            "0=background,1=disc,2=box": (("background", "disc", "box"), (0, 1, 2)),
        },
    ),
    (
        {"names": ["disc", "box"], "colors": [RED, GREEN]},
        colors(BLACK, RED, GREEN),
        {
            "#000000=ignore,#00ff00=box,#ff0000=disc": (("disc", "box"), (255, 0, 1)),
            "#000000=background,#00ff00=box,#ff0000=disc": (
                ("background", "disc", "box"),
                (0, 1, 2),
            ),
        },
    ),
    (
        {"names": THREE, "colors": [BLACK, RED, GREEN]},
        indexed(BLACK, GREEN, RED),
        {"0=bg,1=box,2=disc": (THREE, (0, 2, 1)), "stored": (THREE, (0, 1, 2))},
    ),
]


@pytest.mark.parametrize(("classes", "stored", "readings"), AMBIGUOUS)
def test_two_readings_are_refused_and_every_advice_gives_what_it_says(
    tmp_path: Path, classes: Any, stored: Any, readings: dict[str, Any]
) -> None:
    root = own_tree(tmp_path, classes, stored, 3)
    with pytest.raises(UserError, match=r"can be read in \d ways, because they hold") as error:
        open_dataset(root)
    words = shlex.split(str(error.value).partition("choose ")[2])
    offered = [words[k + 1] for k, word in enumerate(words) if word == "--data.labels"]
    assert offered == list(readings)
    for option, (names, meaning) in readings.items():
        check(root, 3, names, meaning, labels=option)


def test_blurred_edges_are_named_and_the_cure_is_right(tmp_path: Path) -> None:
    def blur(ids: Ids) -> Image.Image:
        values = ids * np.uint8(255)
        values[0, :8] = np.where(ids[0, :8], 130 + np.arange(8) * 5, 120 - np.arange(8) * 5)
        return Image.fromarray(values)

    root = own_tree(tmp_path, stored=blur)
    with pytest.raises(UserError, match="their edges are blurred") as error:
        open_dataset(root)
    (cure,) = re.findall(r"--data\.labels (\S+)", str(error.value))
    check(root, 2, ("background", "disc"), (0, 1), labels=cure)


@pytest.mark.parametrize(
    ("classes", "stored", "reason"),
    [
        (THREE, table(*range(0, 250, 4)), "54 grey values, as images do, not class ids"),
        (THREE, colors(BLACK, RED, GREEN), r"#000000 .*gives no colours .*--data.labels #"),
        (None, lambda ids: Image.fromarray(np.arange(162, dtype=np.uint8).reshape(6, 9, 3)),
         "54 or more colours .*as photographs"),
        (THREE, lambda ids: Image.merge("LA", [Image.new("L", (9, 6)), Image.fromarray(ids)]),
         "differs in its opacity alone"),
    ],
)  # fmt: skip
def test_what_is_no_label_is_refused(
    tmp_path: Path, classes: Any, stored: Any, reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        open_dataset(own_tree(tmp_path, classes, stored, 54 if "54" in reason else 3))


def test_values_of_no_class_are_counted_where_they_are_read(tmp_path: Path) -> None:
    root = own_tree(tmp_path, ("background", "disc"), table(0, 255))
    data = open_dataset(root)
    Image.new("L", (9, 6), 9).save(root / "masks/train/p1.png")
    with pytest.raises(UserError, match=r"p1\.png' holds values of no class: 9 \(54 pixels\)"):
        data[1]


def test_off_colours_are_ignored_up_to_a_share_and_counted(tmp_path: Path) -> None:
    classes = {"names": THREE, "colors": [BLACK, RED, GREEN]}
    root = own_tree(tmp_path, classes, colors(BLACK, RED, GREEN), 3)
    large = np.zeros((40, 50, 3), np.uint8)
    large[0, 0] = (1, 2, 3)  # 1 of 2000
    Image.fromarray(large).save(root / "masks/train/p0.png")
    Image.fromarray(large).save(root / "images/train/p0.png")
    data = open_dataset(root)
    assert data[0]["mask"][0, :2].tolist() == [255, 0]
    assert data.notes == ["0.04% of the sampled pixels have colours of no class; they are ignored"]
    large[:, 9] = (1, 2, 3)
    Image.fromarray(large).save(root / "masks/train/p0.png")
    with pytest.raises(UserError, match=r"colours of no class: #010203 \(41 pixels\)"):
        data[0]


def test_classes_are_renamed_merged_and_ignored_by_name(tmp_path: Path) -> None:
    root = own_tree(tmp_path, THREE, count=3)
    check(root, 3, ("bg", "thing"), (0, 1, 1), labels="disc=thing,box=thing")
    check(root, 3, ("bg", "box"), (0, 255, 1), labels={"disc": "ignore"})
    with pytest.raises(UserError, match="labels name 'disk', which is not a class"):
        open_dataset(root, labels="disk=box")


def test_several_values_to_one_class_and_a_class_list_of_the_user(tmp_path: Path) -> None:
    root = own_tree(tmp_path / "a", THREE, count=3)
    check(root, 3, ("ground", "thing"), (0, 1, 1), labels="0=ground,1-2=thing")
    check(root, 3, THREE, (0, 1, 255), labels="2=ignore")
    other = tmp_path / "other.json"
    other.write_text('["a", "b", "c"]')
    check(root, 3, ("a", "b", "c"), (0, 1, 2), labels=str(other))


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("0=a,0-3=b", "give 0 twice"),
        ("0=a,#fff=b", "all numbers, all colours, or all names"),
        ("0=", "is not VALUE=CLASS"),
        ("#ggg=a", "not a colour"),
        ("70000=a", "up to 65535"),
        ("nothing", "neither a file nor VALUE=CLASS"),
    ],
)
def test_faulty_options(tmp_path: Path, option: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        open_dataset(tmp_path, labels=option)


def test_the_sample_trees_have_the_right_pixels() -> None:
    root = shared("own_labels")
    two = "b1bit b255 b255_la b255_rgb b255_rgba b255_noclasses b_PNG b_bmp b_gif b_tif hexcol"
    two += " id2label ign_null list_only names_dict onlydisc_names ok suffix doubleext mixed"
    three = "onebased rgb rgb_same rgba supervisely_vals"
    for folder, names in (("n2", two), ("n3", three)):
        for name in names.split():
            data = open_dataset(root / name, "val")
            assert len(data) == 4, name
            for sample in data:
                with Image.open(root / "truth" / folder / "val" / f"{sample['name']}.png") as right:
                    assert np.array_equal(sample["mask"], right), name
