"""Folder datasets: images and masks are read unchanged, and every error names the file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from scenewise.classes import Classes
from scenewise.data import FolderDataset
from scenewise.data.class_lists import read_classes
from scenewise.data.datasets import SegmentationDataset, _check_ids
from scenewise.errors import UserError
from tests.data.trees import NAMES, write_pair, write_tree
from tests.shared_data import shared


def one_mask(root: Path, values: list[list[int]]) -> Path:
    """A train split of one pair with this mask, and no classes.json."""
    array = np.array(values, dtype=np.uint8)
    write_pair(root, "train", "a.png", array.shape)
    Image.fromarray(array).save(root / "masks/train/a.png")
    return root


def test_pairs_are_matched_by_name_and_read_unchanged(tmp_path: Path) -> None:
    mask_b = write_pair(tmp_path, "train", "b.JPG")
    mask_a = write_pair(tmp_path, "train", "a.png")
    (tmp_path / "images/train/.DS_Store").touch()
    (tmp_path / "images/train/._a.png").touch()
    (tmp_path / "classes.json").write_text(json.dumps({"names": NAMES}))
    data = FolderDataset(tmp_path, "train")
    assert data.names == ["a", "b"]
    assert data.classes.names == NAMES
    for i, written in enumerate((mask_a, mask_b)):
        assert data.read(i)[1].tolist() == written.tolist()
    stored = np.asarray(Image.open(tmp_path / "images/train/a.png"))
    assert data.read(0)[0].permute(1, 2, 0).tolist() == stored.tolist()


def test_a_sample_passes_through_the_joint_transform(tmp_path: Path) -> None:
    def mirror(image: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert isinstance(image, tv_tensors.Image)
        assert isinstance(mask, tv_tensors.Mask)
        return image.flip(-1), mask.flip(-1)

    plain = FolderDataset(write_tree(tmp_path))
    sample = FolderDataset(tmp_path, transform=mirror)[1]
    assert sample["name"] == "p1"
    assert torch.equal(sample["image"], plain[1]["image"].flip(-1))
    assert torch.equal(sample["mask"], plain[1]["mask"].flip(-1))


def test_both_variants_of_the_class_list(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    colors = [[1, 2, 3], [4, 5, 6]]
    path.write_text(json.dumps({"names": ["a", "b"], "colors": colors, "ignore_index": 7}))
    plain = read_classes(path)
    entries = [{"id": k, "name": "ab"[k], "color": colors[k]} for k in (1, 0)]
    path.write_text(json.dumps({"classes": entries, "ignore_index": 7}))
    assert read_classes(path) == plain
    assert plain.names == ("a", "b")
    assert plain.colors == ((1, 2, 3), (4, 5, 6))
    assert plain.ignore_index == 7


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting"),
        ("[]", "list"),
        ("{}", "a list or an object"),
        ('{"names": "road"}', "'names' is missing"),
        ('{"names": []}', "lists no class"),
        ('{"classes": []}', "lists no class"),
        ('{"names": ["a"], "colors": []}', "one colour for each class"),
        ('{"names": ["a"], "colors": [[1, 2, 300]]}', "not a colour"),
        ('{"names": ["a"], "ignore_index": 256}', "up to 255"),
        ('{"names": ["a", "b", "a"]}', "the name 'a' is listed twice"),
        ('{"classes": [{"id": 0}]}', "an entry has none of name, title"),
        ('[["a"]]', "is not a name"),
    ],
)
def test_faulty_class_lists(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(UserError, match=rf"classes\.json' \(.*{reason}.*\); write it like"):
        read_classes(tmp_path / "classes.json")


def test_missing_class_list(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"class list .* not found"):
        read_classes(tmp_path / "classes.json")


def test_without_a_class_list_the_masks_give_the_classes(tmp_path: Path) -> None:
    data = FolderDataset(one_mask(tmp_path, [[0, 4, 255]]), "train")
    assert data.classes.names == ("class_0", "class_1", "class_2", "class_3", "class_4")
    assert data.classes_from == "the ids in the masks, because there is no class list"


@pytest.mark.parametrize(("values", "count"), [([[255, 255]], 0), ([[0, 0]], 1)])
def test_masks_of_too_few_ids(tmp_path: Path, values: list[list[int]], count: int) -> None:
    with pytest.raises(UserError, match=f"use {count} class ids besides 255"):
        FolderDataset(one_mask(tmp_path, values))


def test_wrong_root_and_missing_split(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone' does not exist; give the folder"):
        FolderDataset(tmp_path / "gone")
    write_tree(tmp_path)
    with pytest.raises(UserError, match=r"split 'test' not found in .*; it has train, val"):
        FolderDataset(tmp_path, "test")


def test_image_without_mask(tmp_path: Path) -> None:
    write_tree(tmp_path)
    (tmp_path / "masks/train/p3.png").unlink()
    with pytest.raises(UserError, match=r"1 of 5 images .*no mask, the first is .*p3\.png"):
        FolderDataset(tmp_path)


def test_two_images_of_one_name(tmp_path: Path) -> None:
    write_tree(tmp_path)
    Image.new("RGB", (17, 13)).save(tmp_path / "images/train/p3.jpg")
    with pytest.raises(UserError, match=r"p3\.jpg' and '.*p3\.png' share one mask"):
        FolderDataset(tmp_path)


def test_mask_of_another_size(tmp_path: Path) -> None:
    write_tree(tmp_path)
    Image.new("L", (13, 17)).save(tmp_path / "masks/train/p2.png")
    data = FolderDataset(tmp_path)
    with pytest.raises(UserError, match=r"17 rows x 13 columns but .*13 rows x 17 columns"):
        data[2]


def test_ids_outside_the_classes_are_counted(tmp_path: Path) -> None:
    one_mask(tmp_path, [[0, 3, 3, 255], [9, 1, 2, 3]])
    (tmp_path / "classes.json").write_text(json.dumps({"names": NAMES}))
    with pytest.raises(UserError, match=r"a\.png' holds ids .*: 3 \(3 pixels\), 9 \(1 pixels\);"):
        FolderDataset(tmp_path)[0]


def test_the_ignored_id_of_the_class_list(tmp_path: Path) -> None:
    one_mask(tmp_path, [[0, 1, 11]])
    (tmp_path / "classes.json").write_text(json.dumps({"names": ["a", "b"], "ignore_index": 11}))
    assert FolderDataset(tmp_path)[0]["mask"].tolist() == [[0, 1, 11]]


def test_the_base_class_cannot_read(tmp_path: Path) -> None:
    data = SegmentationDataset(["a"], FolderDataset(write_tree(tmp_path)).classes)
    assert len(data) == 1
    with pytest.raises(NotImplementedError):
        data[0]


def test_real_street_images() -> None:
    root = shared("camvid")
    data = FolderDataset(root, "val")
    assert (len(data), len(data.classes), data.classes.ignore_index) == (101, 11, 11)
    image, mask = data.read(50)
    assert image.shape == (3, 360, 480)
    assert mask.shape == (360, 480)
    assert set(mask.unique().tolist()) <= set(range(12))
    assert data.classes.names[3] == "road"
    assert (mask[-40:, 180:300] == 3).float().mean() > 0.5  # the road is in front of the camera


@pytest.mark.parametrize(("count", "ignore"), [(1, 255), (3, 255), (3, 2), (255, 255), (256, 0)])
def test_ids_outside_the_classes_are_reported_for_every_number_of_classes(count, ignore):
    classes = Classes.numbered(count, ignore)
    for k in range(256):
        mask = torch.tensor([[0, k]], dtype=torch.uint8)
        if k < count or k == ignore:
            _check_ids(mask, classes, Path("a.png"))
        else:
            with pytest.raises(UserError, match=rf": {k} \(1 pixels\)"):
                _check_ids(mask, classes, Path("a.png"))
