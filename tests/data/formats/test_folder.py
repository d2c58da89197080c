"""Images and masks in folders: how they are paired, divided, listed and what is left over."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scenewise.data import FolderDataset, open_dataset
from scenewise.data.formats.recognise import Source
from scenewise.data.prepare import prepare
from scenewise.errors import UserError
from tests.data.formats.own_trees import own_tree, truth

LAYOUTS = [  # image, mask
    ("images/{split}/p{k}.png", "masks/{split}/p{k}.png"),
    ("{split}/images/p{k}.png", "{split}/masks/p{k}.png"),
    ("imgs/{split}/p{k}.jpg", "labels/{split}/p{k}.PNG"),
    ("img_dir/{split}/p{k}.jpg", "ann_dir/{split}/p{k}.png"),
    ("JPEGImages/{split}/p{k}.jpg", "SegmentationClass/{split}/p{k}.png"),
    ("leftImg8bit/{split}/ulm/p{k}_leftImg8bit.png", "gt/{split}/ulm/p{k}_gt_labelTrainIds.png"),
    ("{split}_images/p{k}.jpg", "{split}_masks/p{k}.tif"),
    ("{split}/p{k}.jpg", "{split}annot/p{k}.png"),
    ("image/{split}/a/b/p{k}.jpg", "label/{split}/a/b/p{k}_label.bmp"),
    ("images/{split}/p{k}.jpg", "masks/{split}/p{k}.jpg.png"),
    ("images/{split}/p{k}.jpg", "masks/p{k}-{split}-gt.png"),
    ("{split}/p{k}.jpg", "{split}/p{k}_mask.png"),
    ("{split}/p{k}.jpg", "{split}/p{k}.png"),
    ("{split}/img_{k}.jpg", "{split}/mask_{k}.gif"),
    ("data/my images/{split}/p{k}.jpg", "data/my masks/{split}/p{k}.png"),
]


def expected(name: str, split: str, splits: tuple[str, ...]) -> list[list[int]]:
    k = int(re.sub(r"\D", "", name.rpartition("/")[2])[0])  # the first digit
    return truth(k + 10 * splits.index(split), 2).tolist()


@pytest.mark.parametrize(("image", "mask"), LAYOUTS)
def test_usual_layouts(tmp_path: Path, image: str, mask: str) -> None:
    if "{split}-gt" in mask:  # all masks in one folder: their images say the split
        image = image.replace("p{k}", "p{k}-{split}")
    own_tree(tmp_path, image=image, mask=mask)
    for split in ("train", "val"):
        data = open_dataset(tmp_path, split)
        assert len(data) == 3
        for sample in data:
            assert sample["mask"].tolist() == expected(sample["name"], split, ("train", "val"))


@pytest.mark.parametrize(
    "names", [("training", "valid"), ("Train", "validation"), ("train", "dev")]
)
def test_other_names_of_the_splits(tmp_path: Path, names: tuple[str, str]) -> None:
    own_tree(tmp_path, splits=(*names, "testing"))
    for split, k in (("train", 0), ("val", 10), ("test", 20)):
        assert open_dataset(tmp_path, split)[0]["mask"].tolist() == truth(k, 2).tolist()


def test_one_flat_pair_of_folders_is_divided(tmp_path: Path) -> None:
    own_tree(tmp_path, image="images/p{k}.png", mask="masks/p{k}.png", splits=("train",))
    train, val = open_dataset(tmp_path), open_dataset(tmp_path, "val")
    assert (len(train), len(val)) == (2, 1)
    assert sorted(train.names + val.names) == ["p0", "p1", "p2"]
    for data in (train, val):
        for name, sample in zip(data.names, data, strict=True):
            assert sample["mask"].tolist() == truth(int(name[1]), 2).tolist()
    with pytest.raises(UserError, match=r"split 'test' not found in .*; it has train and val"):
        open_dataset(tmp_path, "test")
    with pytest.raises(UserError, match="split 'val' not found"):
        open_dataset(tmp_path, "val", val_share=0)


def test_lists_divide_and_pair(tmp_path: Path) -> None:
    flat = own_tree(
        tmp_path / "a", image="images/p{k}.png", mask="masks/p{k}.png", splits=("train",)
    )
    (flat / "train.txt").write_text("p0\n/old/place/images/p2.png\n")
    (flat / "val.txt").write_text("images/p1.png\n")
    assert open_dataset(flat).names == ["p0", "p2"]
    assert open_dataset(flat, "val").names == ["p1"]
    two = own_tree(tmp_path / "b", image="x/{k}.png", mask="y/other{k}.png", splits=("train",))
    (two / "train_list.txt").write_text("x/0.png y/other0.png\nx/1.png y/other2.png\n")
    (two / "val_list.txt").write_text("x/2.png,y/other1.png\n")
    assert open_dataset(two)[1]["mask"].tolist() == truth(2, 2).tolist()
    table = own_tree(tmp_path / "c", image="x/{k}.png", mask="y/other{k}.png", splits=("train",))
    rows = ["image,mask,split", "x/0.png,y/other1.png,train", "x/2.png,y/other0.png,valid"]
    (table / "data.csv").write_text("\n".join(rows))
    assert open_dataset(table, "val")[0]["mask"].tolist() == truth(0, 2).tolist()


def test_lists_that_are_wrong(tmp_path: Path) -> None:
    root = own_tree(tmp_path)
    (root / "train.txt").write_text("images/train/p0.png\nimages/val/p1.png\n")
    with pytest.raises(UserError, match=r"choose --data.splits lists or --data.splits folders"):
        open_dataset(root)
    assert len(open_dataset(root, splits="folders")) == 3
    chosen = open_dataset(root, splits="lists", val_share=0)
    assert [path.parent.name for path in chosen.images] == ["train", "val"]
    (root / "val.txt").write_text("images/val/p1.png\n")
    with pytest.raises(UserError, match="is in the lists of train and val"):
        open_dataset(root)
    (root / "val.txt").write_text("p7\n")
    with pytest.raises(UserError, match=r"1 of 1 images that the list of val names .* 'p7'"):
        open_dataset(root)


def test_what_is_left_over_is_named(tmp_path: Path) -> None:
    root = own_tree(tmp_path)
    for name in ("a.heic", "b.jp2"):
        (root / "images/train" / name).touch()
    (root / "images/train/.hidden.png").touch()
    shutil.copy(root / "images/val/p0.png", root / "images/val/lone.png")
    assert open_dataset(root).notes == [
        "2 images of a kind that cannot be read (convert to PNG or JPEG): a.heic, b.jp2"
    ]
    message = (
        r"1 of 4 images in .*val' have no mask.*lone\.png'; .*without_mask skip .*or background"
    )
    with pytest.raises(UserError, match=message):
        open_dataset(root, "val")
    assert len(open_dataset(root, "val", without_mask="skip")) == 3
    data = open_dataset(root, "val", without_mask="background")
    assert data.notes == ["1 image without a mask (background): lone.png"]
    assert data[data.names.index("images/val/lone")]["mask"].unique().tolist() == [0]
    (root / "classes.json").write_text('["sea", "disc"]')
    with pytest.raises(UserError, match=r"no class is called so .*skip"):
        open_dataset(root, "val", without_mask="background")


def test_a_split_without_images_or_without_masks_is_not_passed_over(tmp_path: Path) -> None:
    root = own_tree(tmp_path)
    shutil.copytree(root / "images/val", root / "images/test")
    assert len(open_dataset(root)) == 3  # test images often have no masks
    with pytest.raises(UserError, match=r"3 of 3 images in .*test' have no mask"):
        open_dataset(root, "test")
    shutil.copy(root / "images/val/p0.png", root / "images/p9.png")
    shutil.copy(root / "masks/val/p0.png", root / "masks/p9.png")
    assert open_dataset(root).notes == ["1 image in no split: p9.png"]
    shutil.rmtree(root / "images/val")
    with pytest.raises(UserError, match="3 masks of the split 'val' have no image"):
        open_dataset(root, "val")


def test_images_and_masks_of_one_name(tmp_path: Path) -> None:
    root = own_tree(tmp_path)
    shutil.copy(root / "masks/train/p1.png", root / "masks/train/p1_mask.png")
    with pytest.raises(UserError, match=r"p1\.png' and .*p1_mask\.png' are both masks of"):
        open_dataset(root)


@pytest.mark.parametrize(("image", "what"), [("images/p.jpg", "1 images without a mask"),
                                             ("masks/p.png", "1 masks without an image"),
                                             ("images/p.heic", "of a kind that cannot be read"),
                                             ("readme.txt", "holds no images")])  # fmt: skip
def test_nothing_to_pair(tmp_path: Path, image: str, what: str) -> None:
    (tmp_path / image).parent.mkdir(exist_ok=True)
    (tmp_path / image).touch()
    with pytest.raises(UserError, match=what):
        open_dataset(tmp_path)


def test_a_jpeg_mask_is_refused_by_that_name_also_inside_png(tmp_path: Path) -> None:
    root = own_tree(tmp_path, mask="masks/{split}/p{k}.jpg", image="images/{split}/p{k}.jpg")
    with pytest.raises(UserError, match=r"p0\.jpg' is a JPEG, which blurs"):
        open_dataset(root)
    for path in root.rglob("masks/*/*.jpg"):
        path.rename(path.with_suffix(".png"))
    with pytest.raises(UserError, match=r"p0\.png' is a JPEG, which blurs"):
        open_dataset(root)


def test_jfif_and_gif_images_are_read(tmp_path: Path) -> None:
    root = own_tree(tmp_path)
    for name, format in (("p0.jfif", "JPEG"), ("p1.gif", "GIF")):
        with Image.open(root / f"images/train/{name[:2]}.png") as image:
            image.save(root / "images/train" / name, format)
        (root / f"images/train/{name[:2]}.png").unlink()
    assert [sample["image"].shape for sample in open_dataset(root)] == 3 * [(3, 6, 9)]


def test_lists_of_a_division_are_written_and_used_again(tmp_path: Path) -> None:
    root = own_tree(tmp_path / "data", splits=("train",))
    first = Source(root, val_seed=1)
    first.write_division(tmp_path / "lists")
    names = first.dataset("train").names
    assert (tmp_path / "lists/train.txt").read_text().split() == names
    for stem in ("p8", "p9"):  # images that come later are in neither
        for kind in ("images", "masks"):
            shutil.copy(root / kind / "train/p0.png", root / kind / f"train/{stem}.png")
    again = Source(root)
    assert again.use_division(tmp_path / "lists", same=True)
    assert again.dataset("train").names == names
    assert "divided by the lists in" in again.describe({"train": again.dataset("train")})
    (root / "images/train/p0.png").unlink()
    gone = Source(root, without_mask="skip")
    assert not gone.use_division(tmp_path / "lists", same=False)
    assert gone.use_division(tmp_path / "lists", same=True)
    with pytest.raises(UserError, match="names 'p0', which is not in the data"):
        gone.dataset("train")


def test_the_line_that_says_what_a_folder_was_taken_for(tmp_path: Path) -> None:
    root = own_tree(tmp_path, stored=lambda ids: Image.fromarray(ids * np.uint8(255)))
    source = Source(root)
    assert source.describe({"train": source.dataset("train")}) == (
        f"'{root}' is read as folder (images with masks of the same name, such as "
        "'images/train/p0.png' with 'masks/train/p0.png'); 2 classes from classes.json: "
        "background, disc (0 = background, 255 = disc); images: 3 train, 3 val"
    )


def test_what_prepare_wrote_is_read_as_it_is(tmp_path: Path) -> None:
    classes = {"names": ["bg", "disc", "box"], "ignore_index": 0}
    root = own_tree(tmp_path, classes, lambda ids: Image.fromarray(ids + np.uint8(1)), 3)
    prepare(lambda split: open_dataset(root, split), root / "prepared_folder")
    for split in ("train", "val"):
        before, after = open_dataset(root, split), open_dataset(root / "prepared_folder", split)
        assert before.classes.names == after.classes.names
        assert all(a["mask"].equal(b["mask"]) for a, b in zip(before, after, strict=True))
        assert len(before) == 3  # the copy inside is not part of the data
    assert json.loads((root / "prepared_folder/classes.json").read_text())["ignore_index"] == 255
    assert FolderDataset(root).names == ["p0", "p1", "p2"]
