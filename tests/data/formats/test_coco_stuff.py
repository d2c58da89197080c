import numpy as np
import pytest

from scenewise.data.formats.coco_stuff import CLASSES, CocoStuff
from scenewise.errors import UserError
from tests.data.formats.trees import ids, write_image, write_label, write_lines, write_mat
from tests.shared_data import shared

SIZE = (13, 17)
UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
USED = [k for k in range(1, 183) if k not in UNUSED]


@pytest.mark.parametrize("labels", ["annotations", "stuffthingmaps"])
@pytest.mark.parametrize("images", ["images/", ""])
def test_pixel_maps_of_164k(tmp_path, labels, images):
    values = [k - 1 for k in USED] + [255]
    for part in ("train2017", "val2017"):
        write_image(tmp_path / f"{images}{part}/000000000009.jpg", SIZE)
        write_label(tmp_path / labels / part / "000000000009.png", ids(values, SIZE))
    for split in ("train", "val"):
        data = CocoStuff(tmp_path, split)
        assert data.published_count == {"train": 118287, "val": 5000}[split]
        mask = data.read(0)[1]
        assert mask.tolist() == ids([*range(171), 255], SIZE).tolist()


def tree_10k(root, values, **more):
    for part in ("train", "test"):
        name = f"COCO_{part}2014_000000000077"
        write_lines(root / f"imageLists/{part}.txt", [name])
        write_image(root / f"images/{name}.jpg", SIZE)
        write_mat(root / f"annotations/{name}.mat", S=ids(values, SIZE).astype(np.uint8), **more)
    return root


def test_matlab_files_of_10k(tmp_path):
    pytest.importorskip("scipy")
    tree_10k(tmp_path / "dataset", [0, *USED])
    for split, part in (("train", "train"), ("val", "test"), ("test", "test")):
        data = CocoStuff(tmp_path, split)
        assert data.names == [f"COCO_{part}2014_000000000077"]
        assert data.published_count == {"train": 9000, "val": 1000, "test": None}[split]
        assert data.read(0)[1].tolist() == ids([255, *range(171)], SIZE).tolist()


def test_version_1_0_of_10k_is_refused(tmp_path):
    pytest.importorskip("scipy")
    names = np.array([f"class{k}" for k in range(172)], dtype=object)
    with pytest.raises(UserError, match=r"version 1.0, whose ids differ"):
        CocoStuff(tree_10k(tmp_path, range(1, 173), names=names)).read(0)


def test_ids_without_annotations_are_refused(tmp_path):
    write_image(tmp_path / "images/train2017/1.jpg", SIZE)
    write_label(tmp_path / "annotations/train2017/1.png", ids([0, 11], SIZE))
    with pytest.raises(UserError, match=r"1.png' .*: 11 \(110 pixels\)"):
        CocoStuff(tmp_path).read(0)


def test_classes_are_the_published_ones():
    text = shared("fixtures/coco_stuff/cocostuff/labels.txt").read_text().strip()
    published = dict(line.split(": ", 1) for line in text.splitlines())
    assert list(CLASSES.names) == [published[str(k)] for k in USED]
    assert len(CLASSES) == 171


def test_annotations_without_pixel_maps_are_refused():
    root = shared("fixtures/coco_stuff/datumaro/coco_dataset/coco_stuff")
    with pytest.raises(UserError, match=r"images/train2017', '.*annotations/train2017' not found"):
        CocoStuff(root)
