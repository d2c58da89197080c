import numpy as np
import pytest

from scenewise.data.formats.voc import _VOID, CLASSES, VOC, VOCAug
from scenewise.errors import UserError
from tests.data.formats.trees import (
    ids,
    write_colors,
    write_image,
    write_label,
    write_lines,
    write_mat,
)
from tests.shared_data import shared

VALUES = [*range(21), 255]


def devkit(root, train=("a1", "a2"), val=("b1",), coloured_masks=False):
    base = root / "VOCdevkit" / "VOC2012"
    colors = {k: CLASSES.colors[k] for k in range(21)} | {255: _VOID}
    for split, names in (("train", train), ("val", val)):
        write_lines(base / f"ImageSets/Segmentation/{split}.txt", names)
        for k, name in enumerate(names):
            write_image(base / f"JPEGImages/{name}.jpg", seed=k)
            path = base / f"SegmentationClass/{name}.png"
            if coloured_masks:
                write_colors(path, ids(VALUES), colors)
            else:
                write_label(path, ids(VALUES), CLASSES.palette())
    return base


def sbd(root, train, val, kind=".mat"):
    base = root / "benchmark_RELEASE" / "dataset"
    write_lines(base / "train.txt", train)
    write_lines(base / "val.txt", val)
    kept = ids(range(21)).astype(np.uint8)
    for name in (*train, *val):
        if kind == ".mat":
            write_mat(base / f"cls/{name}.mat", GTcls={"Segmentation": kept, "Boundaries": kept})
        else:
            write_label(base / f"cls/{name}.png", kept)
    return base


@pytest.mark.parametrize("coloured_masks", [False, True])
@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_indexed_and_coloured_labels_mean_the_same(tmp_path, coloured_masks, below):
    devkit(tmp_path, coloured_masks=coloured_masks)
    if below == "VOCdevkit":
        below = "VOCdevkit"
    data = VOC(tmp_path / below, "train")
    assert data.names == ["a1", "a2"]
    assert data.read(1)[1].tolist() == ids(VALUES).tolist()


def test_classes_are_the_published_ones():
    assert CLASSES.names[1] == "aeroplane"
    assert CLASSES.names[20] == "tvmonitor"
    assert CLASSES.colors[9] == (192, 0, 0)


@pytest.mark.parametrize("kind", [".mat", ".png"])
def test_aug_is_the_union_less_val(tmp_path, kind):
    pytest.importorskip("scipy")
    base = devkit(tmp_path)
    sbd(tmp_path, ["a1", "c1"], ["b1", "c2"], kind)
    for name in ("c1", "c2"):
        write_image(base / f"JPEGImages/{name}.jpg")
    data = VOCAug(tmp_path, "train")
    assert data.names == ["a1", "a2", "c1", "c2"]
    assert data.read(0)[1].tolist() == ids(VALUES).tolist()  # VOC's own label has a border
    assert data.read(2)[1].tolist() == ids(range(21)).tolist()
    assert VOCAug(tmp_path, "val").names == ["b1"]
    assert data.published_count == 10582


@pytest.mark.parametrize("entry", ["{0}", "/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png"])
def test_an_existing_aug_folder_is_used(tmp_path, entry):
    base = devkit(tmp_path)
    write_label(base / "SegmentationClassAug/a2.png", ids([3]))
    write_lines(base / "ImageSets/Segmentation/train_aug.txt", [entry.format("a2")])
    data = VOCAug(tmp_path, "train")
    assert data.names == ["a2"]
    assert data.read(0)[1].unique().tolist() == [3]


def test_what_is_missing_is_named(tmp_path):
    base = devkit(tmp_path)
    with pytest.raises(UserError, match=r"SBD .* is not in .*cls.*train.txt.*val.txt.* not found"):
        VOCAug(tmp_path)
    (base / "JPEGImages/a2.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 2 images of VOC train are missing.*'a2.jpg'"):
        VOC(tmp_path)
    with pytest.raises(UserError, match=r"ImageSets/Segmentation/test.txt' not found"):
        VOC(tmp_path, "test")
    write_lines(base / "ImageSets/Segmentation/train.txt", [])
    with pytest.raises(UserError, match="names no images"):
        VOC(tmp_path)


def test_unknown_voc_ids_are_refused(tmp_path):
    base = devkit(tmp_path)
    write_label(base / "SegmentationClass/a1.png", ids([21]))
    with pytest.raises(UserError, match=r"a1.png' holds ids that are not VOC ids .*: 21 \(35 "):
        VOC(tmp_path).read(0)


def test_sample_of_another_project():
    root = shared("fixtures/voc/datumaro/voc_dataset")
    image, mask = VOC(root / "voc_dataset1").read(0)
    assert image.shape == (3, 10, 20)
    assert mask.unique().tolist() == [2]  # all (0, 128, 0)
    with pytest.raises(UserError, match="1 of 1 labels"):
        VOC(root / "voc_dataset1", "test")
    for other in ("voc_dataset2", "voc_dataset3"):
        with pytest.raises(UserError, match="not found"):
            VOC(root / other)
