import pytest

from scenewise.data.formats.camvid import (
    _CLASS_OF,
    _RAW_CLASSES,
    CLASSES,
    CamVid,
    CamVid32,
    _segnet_split,
)
from scenewise.data.module import SegmentationData
from scenewise.errors import UserError
from tests.data.formats.trees import ids, write_colors, write_image, write_label
from tests.shared_data import shared

COLORS = dict(enumerate(_RAW_CLASSES.colors)) | {255: (0, 0, 0)}
RAW = [*range(31), 255]
# The class of the 11 for each of the 31 in alphabetical order, written down from the grouping.
GROUPED = [9, 1, 10, 1, 1, 8, 9, 9, 2, 7, 3, 3, 6, 10, 8, 4, 9, 3, 4, 4, 6, 0, 8, 2, 6, 8, 5, 8, 1]
GROUPED += [5, 1]


def segnet(root, values=range(12)):
    for split in ("train", "val", "test"):
        write_image(root / split / "0001TP_006690.png")
        write_label(root / f"{split}annot" / "0001TP_006690.png", ids(values))
    return root


def test_segnets_ids(tmp_path):
    mask = CamVid(segnet(tmp_path), "val").read(0)[1]
    assert mask.tolist() == ids([*range(11), 255]).tolist()


@pytest.mark.parametrize("layout", ["split_labels", "published", "annot"])
def test_colours_become_31_or_11_classes(tmp_path, layout):
    frames = {"train": "0016E5_00390", "val": "0016E5_07961", "test": "Seq05VD_f00000"}
    for split, name in frames.items():
        images, labels, ending = {
            "split_labels": (split, f"{split}_labels", "_L"),
            "published": ("701_StillsRaw_full", "LabeledApproved_full", "_L"),
            "annot": (split, f"{split}annot", ""),
        }[layout]
        write_image(tmp_path / images / f"{name}.png")
        write_colors(tmp_path / labels / f"{name}{ending}.png", ids(RAW), COLORS)
    for split, name in frames.items():
        raw, few = CamVid32(tmp_path, split), CamVid(tmp_path, split)
        assert raw.names == few.names == [name]
        assert raw.read(0)[1].tolist() == ids(RAW).tolist()
        assert few.read(0)[1].tolist() == ids([*GROUPED, 255]).tolist()


def test_classes_are_the_published_ones():
    assert list(_CLASS_OF) == GROUPED
    assert _RAW_CLASSES.names[0] == "Animal"
    assert _RAW_CLASSES.colors[_RAW_CLASSES.names.index("Road")] == (128, 64, 128)
    assert len(set(_RAW_CLASSES.colors)) == 31
    for k, group in enumerate(_CLASS_OF):
        if _RAW_CLASSES.names[k].lower() == CLASSES.names[group]:
            assert _RAW_CLASSES.colors[k] == CLASSES.colors[group]


def test_unknown_colours_and_ids_are_refused(tmp_path):
    write_colors(segnet(tmp_path) / "trainannot/0001TP_006690.png", ids([0]), {0: (1, 1, 1)})
    with pytest.raises(UserError, match=r"not CamVid's 32 colours: \(1, 1, 1\) \(35 pixels\)"):
        CamVid(tmp_path).read(0)
    write_label(tmp_path / "trainannot/0001TP_006690.png", ids([12]))
    with pytest.raises(UserError, match=r"SegNet's ids \(0 to 11\): 12"):
        CamVid(tmp_path).read(0)
    with pytest.raises(UserError, match="colours"):
        CamVid32(tmp_path, "val").read(0)


def test_sample_of_another_project():
    root = shared("fixtures/camvid/datumaro/camvid_dataset")
    mask = CamVid32(root, "train").read(0)[1]
    assert {_RAW_CLASSES.names[k] for k in mask.unique().tolist()} == {"Bicyclist", "Road"}
    assert CamVid(root, "train").read(0)[1].unique().tolist() == [3, 10]


def test_the_split_is_that_of_the_common_copy():
    root = shared("camvid/images")
    for split in ("train", "val"):
        assert {_segnet_split(path.stem) for path in (root / split).iterdir()} == {split}


def test_the_data_module_opens_it_by_name(tmp_path):
    data = SegmentationData("camvid", str(segnet(tmp_path)), crop_size=(4, 6), batch_size=1)
    data.setup("fit")
    assert data.num_classes == 11
    (batch,) = data.train_dataloader()
    assert batch["image"].shape == (1, 3, 4, 6)
    assert set(batch["mask"].unique().tolist()) <= {*range(11), 255}
