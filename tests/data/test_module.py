"""The data module: batches, defaults from the data, and each image evaluated once."""

import math
import pickle
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.utils.data import DataLoader

from scenewise.data import module
from scenewise.data.module import (
    FORMATS,
    Format,
    SegmentationData,
    _typical_size,
    collate,
)
from scenewise.data.scenes import Scenes
from scenewise.errors import UserError
from tests.data.trees import write_pair, write_tree


def small_scenes(**changes: Any) -> SegmentationData:
    arguments = {"scenes_train": 10, "scenes_val": 5, "scenes_size": (32, 96), "num_workers": 0}
    return SegmentationData(format="scenes", **(arguments | changes))


def names(loader: DataLoader) -> list[str]:
    return [name for batch in loader for name in batch["name"]]


def test_batches_of_scenes() -> None:
    data = small_scenes(batch_size=4)
    assert data.num_classes == len(data.classes) == 17
    assert data.context_classes == Scenes.context_classes
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert len(batches) == 2  # the rest of 2 is dropped
    for batch in batches:
        assert batch["image"].shape == (4, 3, 32, 96)
        assert batch["image"].dtype == torch.uint8
        assert type(batch["image"]) is type(batch["mask"]) is torch.Tensor
        assert batch["mask"].shape == (4, 32, 96)
        assert batch["mask"].dtype == torch.int64
        assert set(batch["mask"].unique().tolist()) <= set(range(17))


def test_scenes_of_the_splits_differ_and_only_training_scenes_follow_the_seed() -> None:
    first, second = small_scenes(seed=0), small_scenes(seed=1)
    drawn = {
        (seed, split): data.dataset(split).read(0)[0]
        for seed, data in ((0, first), (1, second))
        for split in ("train", "val", "test")
    }
    assert not torch.equal(drawn[0, "train"], drawn[1, "train"])
    assert torch.equal(drawn[0, "val"], drawn[1, "val"])
    assert torch.equal(drawn[0, "test"], drawn[1, "test"])
    assert not torch.equal(drawn[0, "train"], drawn[0, "val"])
    assert not torch.equal(drawn[0, "val"], drawn[0, "test"])


def test_crop_options_reach_the_transform() -> None:
    data = small_scenes(
        crop_size=(32, 96), scale=(0.5, 1.0), scale_step=0.1, base_size=64, max_class_share=0.75
    )
    data.setup("fit")
    crop = data.dataset("train").transform.transforms[0]
    assert (crop.size, crop.scale, crop.step) == ((32, 96), (0.5, 1.0), 0.1)
    assert (crop.base, crop.max_share) == ((64, float("inf")), 0.75)


def test_mixed_windows_depend_on_the_seed_alone() -> None:
    def batches(workers: int) -> list[Tensor]:
        data = small_scenes(
            crop_size=(16, 24), rare_windows=0.5, copy_paste=0.5, mosaic=0.5, num_workers=workers
        )
        data.setup("fit")
        return [batch["image"] for batch in data.train_dataloader()]

    alone, shared = batches(0), batches(2)
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))
    plain = small_scenes(crop_size=(16, 24), num_workers=0)
    plain.setup("fit")
    assert not torch.equal(next(iter(plain.train_dataloader()))["image"], alone[0])


def test_training_scenes_stay_whole() -> None:
    data = small_scenes(batch_size=1, flip=False)
    data.setup("fit")
    stored = {image.numpy().tobytes() for image, _ in map(data.dataset("train").read, range(10))}
    assert {batch["image"][0].numpy().tobytes() for batch in data.train_dataloader()} == stored


def test_a_folder_gives_sensible_defaults(tmp_path: Path) -> None:
    write_tree(tmp_path, train=5, val=3, size=(45, 61))
    data = SegmentationData(root=str(tmp_path))
    assert data.num_classes == 3
    assert data.context_classes == ()
    data.setup("fit")
    assert data.crop_size == (40, 56)
    assert data.batch_size == 8
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (5, 3, 40, 56)
    assert [batch["image"].shape for batch in data.val_dataloader()] == [(1, 3, 45, 61)] * 3
    assert names(data.val_dataloader()) == ["p0", "p1", "p2"]


def test_validation_is_not_transformed(tmp_path: Path) -> None:
    data = SegmentationData(root=str(write_tree(tmp_path)), crop_size=8)
    data.setup("fit")
    for i, batch in enumerate(data.val_dataloader()):
        image, mask = data.dataset("val").read(i)
        assert torch.equal(batch["image"][0], image)
        assert torch.equal(batch["mask"][0], mask.long())


def test_a_typical_size_is_the_median_in_eights(tmp_path: Path) -> None:
    for name, size in (("a.png", (17, 900)), ("b.png", (30, 31)), ("c.png", (5, 1000))):
        write_pair(tmp_path, "train", name, size)
    data = SegmentationData(root=str(tmp_path), val_share=0)
    assert _typical_size(data.dataset("train")) == (16, 768)


@pytest.mark.parametrize(
    ("crop", "batch"), [((64, 192), 8), ((352, 480), 4), ((512, 512), 3), ((768, 768), 2)]
)
def test_larger_crops_make_smaller_batches(
    crop: tuple[int, int], batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert module._fitting_batch(crop) == batch


@pytest.mark.parametrize(("images", "batch", "sizes"), [(5, 4, [4]), (4, 4, [4]), (3, 4, [3])])
def test_no_last_batch_of_one(images: int, batch: int, sizes: list[int]) -> None:
    data = small_scenes(scenes_train=images, batch_size=batch)
    data.setup("fit")
    assert [len(b["name"]) for b in data.train_dataloader()] == sizes


@pytest.mark.parametrize("workers", [0, 2])
def test_training_is_reproducible_and_each_epoch_differs(workers: int) -> None:
    def epochs() -> list[list[dict]]:
        torch.manual_seed(3)
        data = small_scenes(batch_size=5, scale=(0.5, 2.0), num_workers=workers, seed=3)
        data.setup("fit")
        loader, result = data.train_dataloader(), []
        for epoch in (0, 1):
            loader.sampler.set_epoch(epoch)
            result.append(list(loader))
        return result

    first, again = epochs(), epochs()
    for epoch in (0, 1):
        assert [b["name"] for b in first[epoch]] == [b["name"] for b in again[epoch]]
        for one, other in zip(first[epoch], again[epoch], strict=True):
            assert torch.equal(one["image"], other["image"])
    orders = [[name for batch in epoch for name in batch["name"]] for epoch in first]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_validation_and_training(world: int) -> None:
    seen, steps = [], []
    for rank in range(world):
        data = small_scenes(batch_size=2)
        data.trainer = SimpleNamespace(world_size=world, global_rank=rank, training=False)
        data.setup("fit")
        seen += names(data.val_dataloader())
        steps.append(len(list(data.train_dataloader())))
    assert sorted(seen) == data.dataset("val").names
    assert len(set(steps)) == 1  # training processes must stay in step


def test_more_processes_than_images() -> None:
    data = small_scenes()
    data.trainer = SimpleNamespace(world_size=6, global_rank=0)
    with pytest.raises(UserError, match="5 images for 6 processes; use at most 5"):
        data.val_dataloader()


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
def test_processes_that_share_weights_need_equal_shares(strategy: type) -> None:
    data = small_scenes()
    data.trainer = SimpleNamespace(world_size=2, global_rank=1, strategy=strategy())
    with pytest.raises(
        UserError, match="5 images, which cannot be divided equally among 2 processes"
    ):
        data.val_dataloader()
    data.trainer = SimpleNamespace(world_size=5, global_rank=1, strategy=strategy())
    assert len(names(data.val_dataloader())) == 1
    data.trainer = SimpleNamespace(world_size=2, global_rank=1, strategy=DDPStrategy())
    assert len(names(data.val_dataloader())) == 2


def test_images_of_different_sizes(tmp_path: Path) -> None:
    write_tree(tmp_path)
    write_pair(tmp_path, "val", "z.png", (29, 11))
    one = SegmentationData(root=str(tmp_path), num_workers=0)
    sizes = [tuple(batch["mask"].shape[1:]) for batch in one.val_dataloader()]
    assert sizes == [(13, 17)] * 3 + [(29, 11)]
    two = SegmentationData(root=str(tmp_path), num_workers=0, eval_batch_size=2)
    with pytest.raises(UserError, match="set eval_batch_size to 1"):
        list(two.val_dataloader())


def test_an_error_in_a_worker_is_a_user_error(tmp_path: Path) -> None:
    write_tree(tmp_path)
    (tmp_path / "images/val/p1.png").write_text("not an image")
    data = SegmentationData(root=str(tmp_path), num_workers=1)
    with pytest.raises(UserError, match=r"cannot read image .*p1\.png"):
        list(data.val_dataloader())


def test_a_missing_split_is_reported_when_it_is_needed(tmp_path: Path) -> None:
    write_tree(tmp_path, val=0)
    data = SegmentationData(root=str(tmp_path), val_share=0)
    with pytest.raises(UserError, match=r"split 'val' not found in .*; it has train"):
        data.setup("fit")
    only_val = SegmentationData(root=str(write_tree(tmp_path / "other", train=0)))
    assert only_val.num_classes == 3
    only_val.setup("validate")
    assert len(only_val.val_dataloader()) == 3
    with pytest.raises(UserError, match=r"split 'train' not found in .*; it has val"):
        only_val.setup("fit")


def test_an_empty_split_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    data = SegmentationData("scenes", scenes_val=1)
    monkeypatch.setattr(data, "_open", lambda split: [None] if split == "train" else [])
    with pytest.raises(UserError, match="split 'val' of 'scenes' has no images"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"format": "folders"}, "unknown data format 'folders'; did you mean 'folder'. Choose"),
        ({"format": "folder"}, "give --data.root DIR"),
        ({"root": "no/such/place"}, "'no/such/place' does not exist"),
        ({"format": "scenes", "crop_size": 0}, "must be positive"),
        ({"format": "scenes", "batch_size": 0}, "must be positive"),
        ({"format": "scenes", "eval_batch_size": 0}, "must be positive"),
        ({"format": "scenes", "num_workers": -1}, "must be positive"),
        ({"format": "scenes", "scale": (2.0, 0.5)}, "ascending order"),
        ({"format": "scenes", "scale": (1.0, math.inf)}, "ascending order"),
        ({"format": "scenes", "base_size": (1024, 512)}, r"base_size \(1024, 512\).* out of range"),
        ({"format": "scenes", "max_class_share": 0.0}, r"max_class_share 0\.0 .*out of range"),
        ({"format": "scenes", "rare_windows": 1.5}, "rare_windows is 1.5 but must be a share"),
        ({"format": "scenes", "copy_paste": -0.5}, "copy_paste is -0.5 but must be a share"),
        ({"format": "scenes", "scale_step": -0.1}, r"scale_step -0\.1 is out of range"),
        ({"format": "scenes", "scenes_size": (8, 192)}, "cannot draw 1024 scenes"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        SegmentationData(**arguments)


def test_the_command_line_and_the_documentation_have_every_format() -> None:
    assert set(get_args(Format)) == {*FORMATS, "auto", "scenes"}
    docs = Path(__file__).parents[2] / "docs"
    table = "".join((docs / page).read_text() for page in ("data.md", "labelling_tools.md"))
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == {*FORMATS, "auto", "scenes"}


def test_datasets_can_be_pickled_for_spawned_workers() -> None:
    data = small_scenes()
    data.setup("fit")
    copy = pickle.loads(pickle.dumps(data.dataset("train")))
    assert torch.equal(copy.read(4)[0], data.dataset("train").read(4)[0])


def test_a_batch_is_the_stack_of_its_samples() -> None:
    scenes = Scenes(3, size=(16, 48))
    batch = collate([scenes[i] for i in (2, 0)])
    assert batch["name"] == ["scene_00002", "scene_00000"]
    assert torch.equal(batch["image"][1], scenes.read(0)[0])
    assert torch.equal(batch["mask"][0], scenes.read(2)[1].long())
