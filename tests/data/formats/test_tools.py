"""Exports of labelling tools: recognised, with the right pixels, and nothing read by guessing."""

import contextlib
import copy
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from scenewise.data import open_dataset
from scenewise.data.formats import FORMATS
from scenewise.data.formats.listing import list_root
from scenewise.data.formats.recognise import recognise
from scenewise.data.module import SegmentationData
from scenewise.data.prepare import prepare
from scenewise.errors import UserError
from tests.data.formats.tool_trees import (
    BOX,
    FOLDER_TREES,
    NAMES,
    SIZE,
    TREES,
    matlab_labels,
    ring,
    truth,
    write_images,
)
from tests.data.formats.tool_trees import write_json as write
from tests.shared_data import shared


def open_all(root: Path, name: str):
    """Every split of an export."""
    form = FORMATS[name]
    return {split: form.open(root, split, None) for split in form.splits(list_root(root))}


def read_all(root: Path, name: str) -> None:
    """Read every image and mask of an export."""
    for dataset in open_all(root, name).values():
        for index in range(len(dataset)):
            dataset.read(index)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("name", TREES)
def test_an_export_is_recognised_and_has_the_right_pixels(name: str, tmp_path: Path) -> None:
    TREES[name](tmp_path)
    assert recognise(tmp_path).format == name
    datasets = open_all(tmp_path, name)
    masks = {}
    for dataset in datasets.values():
        named = dataset.classes.names
        assert (named[0].strip("_"), *named[1:]) == ("background", "box", "ring")
        for index, label in enumerate(dataset.names):
            image, mask = dataset.read(index)
            assert image.shape[1:] == SIZE
            masks[re.sub("^0a1b2c3.-", "", label)] = mask.numpy()
    expected = truth(second=True)
    if name == "coco":  # a small region on a large one, and both on nothing
        expected[:3, :3], expected[1, 2] = 1, 2
    assert np.array_equal(masks["street one"], truth())
    assert np.array_equal(masks["p.2"], expected)
    assert len(masks) == 2


@pytest.mark.parametrize("name", FOLDER_TREES)
def test_masks_of_tools_that_the_native_format_reads(name: str, tmp_path: Path) -> None:
    FOLDER_TREES[name](tmp_path)
    for split, label in zip(("train", "val"), NAMES, strict=True):
        dataset = open_dataset(tmp_path, split)
        assert dataset.classes.names == ("background", "box", "ring")
        assert label in dataset[0]["name"].replace("_", " ")
        assert np.array_equal(dataset[0]["mask"], truth(split == "val"))


@pytest.mark.parametrize("name", ["cvat", "cvat_masks", "supervisely"])
def test_colours_are_those_of_the_tool(name: str, tmp_path: Path) -> None:
    TREES[name](tmp_path)
    for dataset in open_all(tmp_path, name).values():
        assert dataset.classes.colors == ((0, 0, 0), (10, 20, 0), (0, 200, 0))


def test_an_export_becomes_the_native_layout(tmp_path: Path) -> None:
    TREES["labelme"](tmp_path / "a")
    out = prepare(
        lambda s: FORMATS["labelme"].open(tmp_path / "a", s, None), tmp_path / "b", ["all"]
    )
    first = FORMATS["folder"].open(out, "all", None)
    assert np.array_equal(first.read(first.names.index("street one"))[1], truth())


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "message"),
    [
        ("coco", "train/_annotations.coco.json", '"iscrowd": 1', '"segmentation": []', "duplicate"),
        ("coco", "train/_annotations.coco.json", '"file_name"', '"file"', "is missing"),
        ("coco", "train/_annotations.coco.json", '"category_id": 7', '"category_id": 8', "8 is m"),
        ("coco", "train/_annotations.coco.json", '"name": "ring"', '"name": "box"', "occurs twice"),
        ("coco", "train/_annotations.coco.json", "p.2.jpg", "q.jpg", "1 of 2 images of COCO"),
        ("coco", "train/_annotations.coco.json", '"height": 24', '"height": 48', "32 x 48 pixels"),
        ("yolo", "labels/train/street one.txt", "0 ", "5 ", "class 5 is not in data.yaml"),
        ("yolo", "labels/train/street one.txt", "0.125000", "4.0", "shares of the image"),
        ("yolo", "data.yaml", "[box, ring]", "[[box], ring]", "must be text"),
        ("labelme", "json/p.2.json", '"rectangle"', '"line"', "type line has no area"),
        ("labelme", "json/p.2.json", '"shapes"', '"forms"', "is not a file of labelme"),
        ("labelme_voc", "class_names.txt", "ring\n", "", "holds ids that are not"),
        ("cvat", "annotations.xml", "<polygon", "<polyline", "polyline has no area"),
        ("cvat", "annotations.xml", "<annotations>", "<annotations><track/>", "CVAT for video"),
        ("cvat", "annotations.xml", "<annotations>", "<!DOCTYPE a><annotations>", "DTDForbidden"),
        ("cvat_masks", "labelmap.txt", "10,20,0", "0,200,0", "have the colour"),
        ("cvat_masks", "labelmap.txt", "10,20,0", "9,9,9", "holds colours that are not"),
        ("labelstudio", "project-1.json", '["ring"]', '["ring", "box"]', "2 labels"),
        ("labelstudio", "project-1.json", '_rotation": 0', '_rotation": 90', "rotated image"),
        ("supervisely", "train/ann/street one.jpg.json", '"bitmap"', '"point"', "no area"),
        ("supervisely_masks", "obj_class_to_machine_color.json", "20", "10", "share a colour"),
        ("segments_ai", "release.json", '"id": 300', '"id": 301', "holds instance 300"),
        ("segments_ai", "release.json", '"category_id": 4', '"category_id": 5', "5 is missing"),
        ("via", "train/via_region_data.json", '"class": "box"', '"kind": "box"', "no single"),
        ("via", "train/via_region_data.json", '"class"', '"sort"', "may be in any"),
    ],
)
def test_what_is_broken_or_ambiguous_is_refused(
    name: str, file: str, old: str, new: str, message: str, tmp_path: Path
) -> None:
    TREES[name](tmp_path)
    edit(tmp_path / file, old, new)
    with pytest.raises(UserError, match=re.escape(message)) as refused:
        read_all(tmp_path, name)
    assert "\n" not in str(refused.value)


def test_xml_entities_are_refused(tmp_path: Path) -> None:
    TREES["cvat"](tmp_path)
    bomb = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotations>&x;'
    edit(tmp_path / "annotations.xml", "<annotations>", bomb)
    with pytest.raises(UserError, match="DTDForbidden"):
        FORMATS["cvat"].open(tmp_path, "train", None)


@pytest.mark.parametrize("path", ["../outside.jpg", "/outside.jpg", "C:\\outside.jpg"])
def test_no_name_in_a_file_leads_out_of_the_folder(path: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_images(tmp_path, ("outside",))
    TREES["coco"](root)
    edit(root / "train" / "_annotations.coco.json", '"p.2.jpg"', json.dumps(path))
    with pytest.raises(UserError, match="1 of 2 images of COCO train are missing"):
        FORMATS["coco"].open(root, "train", None)


def test_images_are_found_by_name_where_the_file_names_another_place(tmp_path: Path) -> None:
    TREES["coco"](tmp_path)
    edit(tmp_path / "train" / "_annotations.coco.json", '"file_name": "', '"file_name": "/old/in/')
    (tmp_path / "train" / "_annotations.coco.json").rename(tmp_path / "result.json")
    assert recognise(tmp_path).format == "coco"
    dataset = FORMATS["coco"].open(tmp_path, "all", None)
    assert dataset.names == list(NAMES)
    write_images(tmp_path / "other")
    with pytest.raises(UserError, match="leave one of the two in the folder"):
        FORMATS["coco"].open(tmp_path, "all", None)


def test_roboflows_group_of_all_categories_is_no_class(tmp_path: Path) -> None:
    TREES["coco"](tmp_path)
    file = tmp_path / "train" / "_annotations.coco.json"
    value = json.loads(file.read_text())
    for category in value["categories"]:
        category["supercategory"] = "things"
    value["categories"].insert(0, {"id": 0, "name": "things", "supercategory": "none"})
    file.write_text(json.dumps(value))
    assert FORMATS["coco"].open(tmp_path, "train", None).classes.names[1:] == ("box", "ring")
    value["annotations"][0]["category_id"] = 0
    file.write_text(json.dumps(value))
    assert FORMATS["coco"].open(tmp_path, "train", None).classes.names[1:] == (
        "things",
        "box",
        "ring",
    )


def test_cocos_own_folders(tmp_path: Path) -> None:
    """Each split has its images in another folder, where the same names occur."""
    TREES["coco"](tmp_path / "made")
    text = (tmp_path / "made" / "train" / "_annotations.coco.json").read_text()
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        write_images(root / "images" / split)
        (root / "annotations" / f"instances_{split}.json").write_text(text)
    (root / "annotations" / "captions_val2017.json").write_text(text)
    datasets = open_all(root, "coco")
    assert [path.parent.name for path in datasets["val"].images] == ["val2017"] * 2
    assert [path.parent.name for path in datasets["train"].images] == ["train2017"] * 2


def test_regions_of_the_label_ignore_are_ignored(tmp_path: Path) -> None:
    write_images(tmp_path, ("a",))
    x, y, width, height = BOX
    corners = [ring(BOX)[i : i + 2] for i in range(0, 8, 2)]
    shape = {"label": "__ignore__", "points": corners, "shape_type": "polygon"}
    write(tmp_path / "a.json", {"shapes": [shape], "imagePath": "a.jpg"})
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nroad\nsky\n")
    dataset = FORMATS["labelme"].open(tmp_path, "all", None)
    assert dataset.classes.names == ("_background_", "road", "sky")
    mask = dataset.read(0)[1]
    assert (mask[y : y + height, x : x + width] == 255).all()
    assert (mask == 255).sum() == width * height
    (tmp_path / "labels.txt").write_text("road\n")
    shape["label"] = "tree"
    write(tmp_path / "a.json", {"shapes": [shape], "imagePath": "a.jpg"})
    with pytest.raises(UserError, match="label 'tree' is not in"):
        FORMATS["labelme"].open(tmp_path, "all", None)


def test_images_without_labels_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    TREES["labelme"](tmp_path / "a")
    write_images(tmp_path / "a" / "shots", ("later",))
    assert len(FORMATS["labelme"].open(tmp_path / "a", "all", None)) == 2
    TREES["yolo"](tmp_path / "b")
    write_images(tmp_path / "b" / "images" / "train", ("nothing",))
    dataset = FORMATS["yolo"].open(tmp_path / "b", "train", None)
    assert not dataset.read(dataset.names.index("nothing"))[1].any()
    TREES["labelstudio"](tmp_path / "c")
    assert len(FORMATS["labelstudio"].open(tmp_path / "c", "all", None)) == 2
    said = " ".join(caplog.messages)
    assert "1 images have no labels and are left out" in said
    assert "1 of 2 images have no label file and are read as background" in said
    assert "1 of 3 tasks" in said


def test_boxes_of_yolo_are_refused(tmp_path: Path) -> None:
    TREES["yolo"](tmp_path)
    (tmp_path / "labels" / "val" / "p.2.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(UserError, match="a line is a box, not a polygon"):
        FORMATS["yolo"].open(tmp_path, "val", None).read(0)


def test_pngs_of_label_studio_need_the_json_or_the_option(tmp_path: Path) -> None:
    root = shared("own_labels/labelstudio")
    with pytest.raises(UserError, match=r"name tasks, not images.*--data.format labelstudio_order"):
        FORMATS["labelstudio"].open(root, "all", None)
    dataset = FORMATS["labelstudio_order"].open(root, "all", None)
    assert dataset.classes.names == ("background", "box", "disc")
    assert len(dataset) == 4


@pytest.mark.parametrize(
    ("tree", "name", "classes", "count"),
    [
        ("coco", "coco", ("background", "disc"), 6),
        ("cvat", "cvat_masks", ("background", "disc", "box"), 6),
        ("labelme", "labelme", ("background", "disc"), 6),
        ("labelme_voc", "labelme_voc", ("_background_", "disc", "box"), 6),
        ("ultra", "ultralytics", ("background", "disc"), 8),
        ("yolo", "yolo", ("background", "disc"), 8),
    ],
)
def test_shared_trees(tree: str, name: str, classes: tuple[str, ...], count: int) -> None:
    root = shared(f"own_labels/{tree}")
    assert recognise(root).format == name
    datasets = open_all(root, name).values()
    assert {dataset.classes.names for dataset in datasets} == {classes}
    assert sum(len(dataset) for dataset in datasets) == count
    ids = np.concatenate([np.unique(d.read(i)[1]) for d in datasets for i in range(len(d))])
    assert {*ids.tolist()} == {*range(len(classes))}


def test_pixel_labels_of_matlab(tmp_path: Path) -> None:
    """Undefined pixels are ignored, and the classes are in the order of their IDs."""
    matlab_labels(tmp_path)
    assert recognise(list_root(tmp_path)).format == "matlab_labels"
    dataset = FORMATS["matlab_labels"].open(tmp_path, "all", None)
    assert dataset.classes.names == ("box", "ring", "background")
    mask = dataset.read(dataset.names.index("street one"))[1].numpy()
    assert (mask[-1] == 255).all()
    assert np.array_equal(np.array([2, 0, 1])[truth()][:-1], mask[:-1])
    (tmp_path / "classes.json").write_text('["box", "ring", "background"]')
    with pytest.raises(UserError, match=r"are in gTruth\.mat, which only MATLAB reads"):
        FORMATS["matlab_labels"].open(tmp_path, "all", None)
    label = next((tmp_path / "gTruth" / "PixelLabelData").iterdir())
    matlab_labels(tmp_path)
    label.rename(label.with_name("Label_1.png"))
    with pytest.raises(UserError, match="does not say which image it is of"):
        FORMATS["matlab_labels"].open(tmp_path, "all", None)


ODD = (None, -1, 10**30, 1.5, "x", "", [], {}, True, [[]], {"a": 1}, [None], "../../x")
CONTENT = {
    "coco": "train/_annotations.coco.json",
    "labelme": "json/street one.json",
    "labelstudio": "project-1.json",
    "segments_ai": "release.json",
    "supervisely": "train/ann/street one.jpg.json",
    "via": "train/via_region_data.json",
}


def places(value: object, place: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """The place of every value in nested lists and dictionaries; of lists the first two."""
    inner = value.items() if isinstance(value, dict) else []
    inner = list(enumerate(value))[:2] if isinstance(value, list) else inner
    for key, item in inner:
        yield (*place, key)
        yield from places(item, (*place, key))


@pytest.mark.parametrize("name", CONTENT)
def test_a_value_of_another_type_is_read_or_refused_in_one_sentence(
    name: str, tmp_path: Path
) -> None:
    TREES[name](tmp_path)
    file = tmp_path / CONTENT[name]
    value = json.loads(file.read_text())
    for number, (*where, last) in enumerate(places(value)):
        changed = copy.deepcopy(value)
        inner = changed
        for key in where:
            inner = inner[key]
        inner[last] = ODD[number % len(ODD)]
        file.write_text(json.dumps(changed))
        with contextlib.suppress(UserError):  # which is one sentence; any other error fails
            read_all(tmp_path, name)


def test_splits_of_other_classes_are_refused(tmp_path: Path) -> None:
    TREES["coco"](tmp_path)
    shutil.copytree(tmp_path / "train", tmp_path / "valid")
    data = SegmentationData(root=str(tmp_path))
    assert data.dataset("val").classes.names == ("background", "box", "ring")
    assert "3 classes from the export of COCO" in data.describe()
    edit(tmp_path / "valid" / "_annotations.coco.json", '"id": 9, "name"', '"id": 3, "name"')
    edit(tmp_path / "valid" / "_annotations.coco.json", '"category_id": 9', '"category_id": 3')
    with pytest.raises(UserError, match="lists the classes background, box, ring for 'train'"):
        SegmentationData(root=str(tmp_path)).dataset("val")


def test_label_studios_shapes_and_labels_may_be_two_results(tmp_path: Path) -> None:
    TREES["labelstudio"](tmp_path)
    file = tmp_path / "project-1.json"
    tasks = json.loads(file.read_text())
    for task in tasks[:2]:
        results = task["annotations"][1]["result"]
        for number, result in enumerate(list(results[:2])):
            if result["type"] != "choices":
                kind = result["type"].removesuffix("labels")
                labels = result["value"].pop(f"{kind}labels")
                plain = {**result, "type": kind, "id": str(number)}
                value = {**result["value"], "labels": labels}
                results[number] = plain
                results.append({**plain, "type": "labels", "value": value})
    file.write_text(json.dumps(tasks))
    dataset = FORMATS["labelstudio"].open(tmp_path, "all", None)
    assert np.array_equal(dataset.read(0)[1], truth())
    tasks[0]["annotations"][1]["result"].pop()  # a brush stroke without its label
    file.write_text(json.dumps(tasks))
    with pytest.raises(UserError, match="type brush has no area or no label"):
        FORMATS["labelstudio"].open(tmp_path, "all", None)


def test_lists_of_cvat_are_its_splits(tmp_path: Path) -> None:
    TREES["cvat_masks"](tmp_path)
    lists = tmp_path / "ImageSets" / "Segmentation"
    (lists / "default.txt").unlink()
    for name, image in zip(("first", "second"), NAMES, strict=True):  # subsets that are no splits
        (lists / f"{name}.txt").write_text(f"{image}\n")
    assert len(FORMATS["cvat_masks"].open(tmp_path, "all", None)) == 2
    (lists / "first.txt").rename(lists / "Train.txt")
    with pytest.raises(UserError, match=r"second\.txt' is in no split, but"):
        open_all(tmp_path, "cvat_masks")
    (lists / "second.txt").rename(lists / "Validation.txt")
    assert open_all(tmp_path, "cvat_masks")["val"].names == ["p.2"]
