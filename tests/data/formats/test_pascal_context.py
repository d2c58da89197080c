import json

import numpy as np
import pytest

from scenewise.data.formats.pascal_context import (
    _CLASSES_59,
    _LABELS,
    CLASSES,
    PascalContext,
    PascalContext59,
)
from scenewise.data.formats.regions import decode_runs
from scenewise.errors import UserError
from tests.data.formats.trees import ids, write_image, write_label, write_lines, write_mat

SIZE = (9, 11)
# The publisher's list of 59, counting from 1, as its label images use it: the VOC classes first.
PUBLISHED = {1: "aeroplane", 2: "bicycle", 12: "dog", 11: "table", 20: "tvmonitor", 21: "bag"} | {
    42: "curtain",
    52: "bedclothes",
    59: "wood",
}


def devkit(root, lists="Main"):
    base = root / "VOCdevkit" / "VOC2010"
    for split, name in (("train", "2008_000002"), ("val", "2008_000003")):
        write_image(base / f"JPEGImages/{name}.jpg", SIZE)
        write_lines(base / f"ImageSets/{lists}/{split}.txt", [name])
    return base


def reduced(mask):
    return np.where(np.isin(mask, (0, 255)), 255, mask - 1)


def check(root, expected):
    """Both numbers of classes, from one tree whose 60 ids are ``expected``."""
    assert PascalContext(root, "train").read(0)[1].tolist() == expected.tolist()
    assert PascalContext59(root, "train").read(0)[1].tolist() == reduced(expected).tolist()


def test_classes_are_in_the_order_of_their_ids():
    assert len(CLASSES) == 60
    assert len(_CLASSES_59) == 59
    assert list(_LABELS.values()) == sorted(_LABELS.values())
    assert list(_LABELS) == sorted(_LABELS)
    assert CLASSES.names[:3] == ("background", "aeroplane", "bag")
    assert _CLASSES_59.colors[0] == CLASSES.colors[1] == (128, 0, 0)


@pytest.mark.parametrize("place", ["", "VOCdevkit/VOC2010"])
def test_label_images_of_the_publisher_are_reordered(tmp_path, place):
    devkit(tmp_path)
    values = [0, *PUBLISHED, 255]
    write_label(tmp_path / place / "59_context_labels/2008_000002.png", ids(values, SIZE))
    expected = [0, *(CLASSES.names.index(name) for name in PUBLISHED.values()), 255]
    check(tmp_path, ids(expected, SIZE))


def test_every_published_id_becomes_another_class(tmp_path):
    devkit(tmp_path)
    write_label(tmp_path / "59_context_labels/2008_000002.png", ids(range(60), SIZE))
    assert PascalContext(tmp_path).read(0)[1].unique().tolist() == list(range(60))


def test_label_images_of_converters(tmp_path):
    base = devkit(tmp_path, lists="SegmentationContext")
    write_label(base / "SegmentationClassContext/2008_000002.png", ids(range(60), SIZE))
    check(tmp_path, ids(range(60), SIZE))


def test_matlab_files_of_459_labels(tmp_path):
    pytest.importorskip("scipy")
    devkit(tmp_path)
    stored = ids([1, 2, 9, 458, 459, 3, 0], SIZE).astype(np.uint16)
    write_mat(tmp_path / "trainval/2008_000002.mat", LabelMap=stored)
    check(tmp_path, ids([0, 1, 2, 59, 0, 0, 0], SIZE))


def encode(mask):
    """COCO's compressed run lengths, written plainly."""
    flat = mask.T.ravel().astype(int).tolist()
    runs, current = [0], 0
    for value in flat:
        if value != current:
            runs.append(0)
            current = value
        runs[-1] += 1
    text = ""
    for k, run in enumerate(runs):
        number = run - runs[k - 2] if k > 2 else run
        more = True
        while more:
            bits = number & 31
            number >>= 5
            more = number != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return text, runs


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (211, 307)])
def test_run_lengths_decode_to_what_was_encoded(share, size):
    mask = np.random.default_rng(0).random(size) < share
    text, runs = encode(mask)
    for counts in (text, text.encode(), runs):
        assert np.array_equal(decode_runs(counts, *size), mask)


@pytest.mark.parametrize("counts", ["", "0", "zzz", "é", [1, 2], [-1, 36], "~~", [40]])
def test_broken_run_lengths_are_refused(counts):
    with pytest.raises(ValueError, match=r"run lengths|encode"):
        decode_runs(counts, 5, 7)


def detail(root, **change):
    devkit(root)
    first, second = ids([0, 1], SIZE) > 0, ids([0, 0, 1], SIZE) > 0
    content = {
        "images": [
            {"image_id": 7, "file_name": "2008_000002.jpg", "phase": "train"},
            {"image_id": 8, "file_name": "2008_000003.jpg", "phase": "val"},
        ],
        "annos_segmentation": [
            {"image_id": 7, "category_id": 2, "segmentation": {"counts": encode(first)[0]}},
            {"image_id": 7, "category_id": 458, "segmentation": {"counts": encode(second)[0]}},
        ],
    }
    for image in content["images"]:
        image |= {"height": SIZE[0], "width": SIZE[1]}
    content |= change
    path = root / "VOCdevkit/VOC2010/trainval_merged.json"
    path.write_text(json.dumps(content))
    expected = np.where(second, 59, np.where(first, 1, 0))
    return path, expected


def test_the_json_file_is_read_without_its_library(tmp_path):
    _, expected = detail(tmp_path)
    check(tmp_path, expected)
    assert PascalContext(tmp_path, "val").names == ["2008_000003"]
    assert PascalContext(tmp_path, "val").published_count == 5104  # one less than in the PNGs
    assert PascalContext(tmp_path, "trainval").names == ["2008_000002", "2008_000003"]


def test_a_broken_json_file_is_named(tmp_path):
    path, _ = detail(tmp_path, annos_segmentation=[{"image_id": 7, "category_id": 2}])
    with pytest.raises(UserError, match=r"cannot read '.*trainval_merged.json' \(KeyError"):
        PascalContext(tmp_path)
    entry = {"image_id": 7, "category_id": 2, "segmentation": {"counts": "00"}}
    detail(tmp_path, annos_segmentation=[entry])
    with pytest.raises(UserError, match=r"masks of '2008_000002' in '.*json' are broken"):
        PascalContext(tmp_path).read(0)
    path.write_text("{")
    with pytest.raises(UserError, match="cannot read"):
        PascalContext(tmp_path)


def test_what_is_missing_is_named(tmp_path):
    base = devkit(tmp_path)
    with pytest.raises(UserError, match="looked for 59_context_labels, SegmentationClassContext"):
        PascalContext(tmp_path)
    (tmp_path / "59_context_labels").mkdir()
    with pytest.raises(UserError, match=r"1 of 1 labels .*2008_000002.png"):
        PascalContext(tmp_path)
    (base / "ImageSets/Main/train.txt").unlink()
    with pytest.raises(UserError, match=r"SegmentationContext/train.txt' and .*Main/train.txt'"):
        PascalContext(tmp_path)
