"""Recognising layouts: the listing, and ``open_dataset``."""

from pathlib import Path

import pytest

from scenewise.data import open_dataset
from scenewise.data.formats.listing import list_root
from scenewise.data.formats.recognise import recognise
from scenewise.errors import UserError
from tests.data.trees import write_tree


def test_a_listing_has_visible_names_of_all_depths_and_ends_in_a_loop_of_links(tmp_path: Path):
    for name in (
        "a/b/c.png",
        "a/.hidden/d.png",
        "a/._c.png",
        "__MACOSX/a.png",
        "Thumbs.db",
        "e.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    listing = list_root(tmp_path)
    assert listing.paths == ("e.txt", "a/b/c.png")
    assert listing.has("a")
    assert listing.has("a/b/c.png")
    assert not listing.has("a/x")
    assert listing.match("*.png") == ["a/b/c.png"]
    assert listing.json("e.txt") == {}
    assert listing.json("none") is None


def test_a_folder_dataset_is_opened_without_its_format(tmp_path: Path):
    root = write_tree(tmp_path)
    train = open_dataset(root)
    assert len(train) == 5
    chosen = train.select([3, 1])
    assert [sample["name"] for sample in chosen] == ["p3", "p1"]
    assert chosen[0]["mask"].equal(train[3]["mask"])
    assert open_dataset(root, "val").classes.names == ("road", "sky", "tree")
    with pytest.raises(UserError, match="unknown data format 'x'; choose one of auto, folder"):
        open_dataset(root, format="x")
    with pytest.raises(UserError, match="does not exist; give the folder of the dataset"):
        open_dataset(tmp_path / "none")
    with pytest.raises(UserError, match=r"or give --data\.format hugging_face"):
        open_dataset("owner/name")


CITY = "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png"
PUBLISHED = [
    ("cityscapes", [CITY, "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png"]),
    ("cityscapes_coarse", [CITY, "gtCoarse/train/ulm/ulm_000000_000019_gtCoarse_labelIds.png"]),
    ("voc", ["VOCdevkit/VOC2012/JPEGImages/2007_000032.jpg",
             "VOCdevkit/VOC2012/SegmentationClass/2007_000032.png",
             "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"]),
    ("ade20k", ["images/training/ADE_train_00000001.jpg",
                "annotations/training/ADE_train_00000001.png"]),
    ("coco_stuff", ["train2017/000000000009.jpg", "stuffthingmaps/train2017/000000000009.png"]),
    ("camvid", ["train/0001TP_006690.png", "trainannot/0001TP_006690.png"]),
    ("hugging_face", ["data/train-00000-of-00001.parquet"]),
    ("stream", ["index.json", "train-000000.tar"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "files"), PUBLISHED)
def test_published_layouts_are_recognised_by_their_names(
    tmp_path: Path, name: str, files: list[str]
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert recognise(tmp_path).format == name
    if name not in ("hugging_face", "stream"):  # own classes in the same folders
        (tmp_path / "classes.json").write_text('["a", "b"]')
        assert recognise(tmp_path).format == "folder"


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["701_StillsRaw_full/0001TP_1.png", "LabeledApproved_full/0001TP_1_L.png"],
         ["camvid", "camvid_32"]),
        (["JPEGImages/2008_000002.jpg", "59_context_labels/2008_000002.png"],
         ["pascal_context", "pascal_context_59"]),
    ],
)  # fmt: skip
def test_two_formats_that_fit_are_both_named(
    tmp_path: Path, files: list[str], names: list[str]
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    with pytest.raises(UserError, match="can be read in 2 ways; choose") as error:
        open_dataset(tmp_path)
    for name in names:
        assert f"--data.format {name} (" in str(error.value)
