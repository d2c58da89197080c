"""Images without labels: found, compared with the labelled ones, refused in one sentence."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise.data import SegmentationData
from scenewise.data.module import SegmentationData as Module
from scenewise.data.unlabelled import UnlabelledImages
from scenewise.errors import UserError
from tests.data.trees import write_tree


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    root = write_tree(tmp_path / "labelled", train=3, val=2)
    (root / "images" / "test").mkdir()
    (root / "masks" / "test").mkdir()
    for kind in ("images", "masks"):
        shutil.copy(root / kind / "val" / "p1.png", root / kind / "test" / "t.png")
    image = np.random.default_rng(5).integers(0, 256, (13, 17, 3), np.uint8)
    Image.fromarray(image).save(root / "images" / "test" / "t.png")
    return root


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """Three images of different sizes, one in a sub-folder, and a file that is not an image."""
    folder = tmp_path / "more"
    (folder / "b").mkdir(parents=True)
    for k, name in enumerate(("x.jpg", "y.png", "b/z.png")):
        values = np.random.default_rng(k).integers(0, 256, (20 + k, 30 - k, 3), np.uint8)
        Image.fromarray(values).save(folder / name)
    (folder / "readme.txt").write_text("no image")
    return folder


def data(labelled: Path, more: Path) -> SegmentationData:
    module = Module(
        root=str(labelled), unlabelled=str(more), batch_size=2, crop_size=8, num_workers=0
    )
    module.setup("fit")
    return module


def found(labelled: Path, more: Path) -> UnlabelledImages:
    images = data(labelled, more).without_labels
    assert images is not None
    return images


def test_images_of_any_size_are_found(labelled: Path, more: Path) -> None:
    images = found(labelled, more)
    assert [path.name for path in images.paths] == ["z.png", "x.jpg", "y.png"]
    assert images.notes == []
    assert images.read(0).shape == (3, 22, 28)


def test_a_folder_called_images_is_preferred(labelled: Path, more: Path) -> None:
    (more / "images").mkdir()
    (more / "x.jpg").rename(more / "images" / "x.jpg")
    assert [path.name for path in found(labelled, more).paths] == ["x.jpg"]


def test_scored_images_are_left_out_and_labelled_ones_said(labelled: Path, more: Path) -> None:
    for split, name in (("train", "p0.png"), ("val", "p0.png"), ("test", "t.png")):
        shutil.copy(labelled / "images" / split / name, more / f"copy_{split}.png")
    images = found(labelled, more)
    assert [p.name for p in images.paths] == ["z.png", "copy_train.png", "x.jpg", "y.png"]
    assert images.notes == [
        f"2 of the 6 images in '{more}' are validation or test images and are left out",
        f"1 of the images in '{more}' are labelled training images too",
    ]


def test_nothing_but_scored_images_is_refused(labelled: Path) -> None:
    with pytest.raises(UserError, match=r"all 2 images in --unlabelled .* validation or test"):
        found(labelled, labelled / "images" / "val")


def test_labelled_images_that_are_not_files_are_said(tmp_path: Path, more: Path) -> None:
    module = Module("scenes", scenes_train=2, unlabelled=str(more), batch_size=2)
    module.setup("fit")  # generated scenes are in no folder, so nothing is said
    assert module.without_labels is not None
    assert module.without_labels.notes == []
    images = UnlabelledImages(more, module.images.layout, {"train": module.dataset("train")})
    assert "not compared with the labelled ones" in images.notes[0]


def test_other_channels_are_refused(labelled: Path, more: Path) -> None:
    shutil.rmtree(more)
    more.mkdir()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(more / "mask.png")
    with pytest.raises(UserError, match=r"have 1 channel but the labelled ones have 3.*no masks"):
        found(labelled, more)
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(more / "mask.png")
    with pytest.raises(UserError, match=r"--unlabelled: .*mask.png.*8 bits a channel are expected"):
        found(labelled, more)


def test_an_unreadable_image_is_named(labelled: Path, more: Path) -> None:
    (more / "y.png").write_bytes((more / "y.png").read_bytes()[:200])
    with pytest.raises(UserError, match=r"--unlabelled: .*y\.png"):
        found(labelled, more)


def test_no_images_are_refused(labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--unlabelled '.*none' does not exist; give a folder"):
        found(labelled, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no images in --unlabelled '.*empty'; files that end in"):
        found(labelled, tmp_path / "empty")


def test_a_batch_has_as_many_views_and_the_labelled_part_stays(labelled: Path, more: Path) -> None:
    both = data(labelled, more)
    alone = Module(root=str(labelled), batch_size=2, crop_size=8, num_workers=0)
    alone.setup("fit")
    batch, plain = next(iter(both.train_dataloader())), next(iter(alone.train_dataloader()))
    assert torch.equal(batch["image"], plain["image"])
    assert torch.equal(batch["mask"], plain["mask"])
    assert batch["weak"].shape == batch["strong"].shape == (2, 3, 8, 8)
    assert (batch["known"].shape, batch["box"].shape) == ((2, 8, 8), (2, 4))
    assert set(batch["unlabelled_name"]) <= {"x", "y", "z"}
    again = next(iter(both.train_dataloader()))
    assert all(torch.equal(batch[k], again[k]) for k in ("weak", "strong", "known", "box"))


def test_the_fingerprint_is_that_of_the_names(labelled: Path, more: Path, tmp_path: Path) -> None:
    shutil.copytree(more, tmp_path / "moved")
    before, moved = found(labelled, more).fingerprint, found(labelled, tmp_path / "moved")
    assert before.startswith("3 images (")
    assert moved.fingerprint == before
    (more / "x.jpg").rename(more / "w.jpg")
    assert found(labelled, more).fingerprint != before
