"""Streaming: every sample once in evaluation; equal and shuffled shares in training."""

from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from scenewise.apps.cli import main
from scenewise.data import FolderDataset, SegmentationData
from scenewise.data.shards import ShardSet, write_shards
from scenewise.data.shards.stream import ShardStream
from scenewise.errors import UserError
from tests.data.trees import write_tree


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 training images in 6 shards, 5 to validate on in 2."""
    root = tmp_path_factory.mktemp("shards")
    tree = write_tree(root / "tree", train=23, val=5)
    return write_shards(partial(FolderDataset, tree), root / "out", per_shard=4)


def names(stream: ShardStream, workers: int) -> list[list[str]]:
    """The names in each batch of all workers, without starting processes."""
    loader = DataLoader(stream, batch_size=None, num_workers=workers)
    return [batch["name"] for batch in loader]


def stream(root: Path, split: str, batch: int, **options: int) -> ShardStream:
    return ShardStream(ShardSet(root, split), batch, **options)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_evaluation_sees_each_sample_once(shards: Path, world: int, batch: int) -> None:
    seen: Counter[str] = Counter()
    for rank in range(world):
        part = stream(shards, "train", batch, world=world, rank=rank)
        batches = names(part, 0)
        assert len(batches) == len(part)
        seen.update(name for batch in batches for name in batch)
    assert seen == Counter(ShardSet(shards, "train").names)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_evaluation_with_workers_sees_each_sample_once(shards: Path, workers: int) -> None:
    """Five images in two shards: with three workers, each reads both shards."""
    part = stream(shards, "val", 2, workers=workers)
    batches = names(part, workers)
    assert len(batches) == len(part)
    assert sorted(name for batch in batches for name in batch) == ShardSet(shards, "val").names


def test_evaluation_keeps_the_order(shards: Path) -> None:
    assert names(stream(shards, "train", 23), 0) == [ShardSet(shards, "train").names]


@pytest.mark.parametrize("world", [1, 2, 5, 8])
def test_training_gives_all_processes_equally_many_full_batches(shards: Path, world: int) -> None:
    epochs = []
    for rank in range(world):
        part = stream(shards, "train", 2, world=world, rank=rank, buffer=5)
        batches = names(part, 0)
        assert len(batches) == len(part) == max(1, 23 // world // 2)
        assert {len(batch) for batch in batches} == {2}
        epochs += [name for batch in batches for name in batch]
    assert len(set(epochs)) > 0.6 * len(epochs)


def test_training_with_more_readers_than_samples(shards: Path) -> None:
    for rank in range(9):
        part = stream(shards, "val", 2, world=9, rank=rank, buffer=3)
        assert [len(batch) for batch in names(part, 0)] == [2]


def test_workers_share_the_batches_of_an_epoch(shards: Path) -> None:
    part = stream(shards, "train", 3, workers=2, buffer=4)
    batches = names(part, 2)
    assert len(batches) == len(part) == 7
    assert len({name for batch in batches for name in batch}) > 12


def test_order_follows_seed_and_epoch_alone(shards: Path) -> None:
    first = stream(shards, "train", 2, buffer=6, seed=1)
    epochs = [names(first, 0) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert names(stream(shards, "train", 2, buffer=6, seed=1), 0) == epochs[0]
    assert names(stream(shards, "train", 2, buffer=6, seed=1, epoch=2), 0) == epochs[2]
    assert names(stream(shards, "train", 2, buffer=6, seed=2), 0) != epochs[0]


def test_a_buffer_mixes_beyond_one_shard(shards: Path) -> None:
    home = {name: k for k, (_, names_) in enumerate(ShardSet(shards).shards) for name in names_}
    flat = [home[n] for batch in names(stream(shards, "train", 2, buffer=12), 0) for n in batch]
    changes = sum(a != b for a, b in pairwise(flat))
    assert changes > 10  # 5 if one shard followed the other


def test_every_sample_comes_in_some_epoch(shards: Path) -> None:
    part = stream(shards, "train", 5, buffer=8)
    seen = {name for _ in range(8) for batch in names(part, 0) for name in batch}
    assert seen == set(ShardSet(shards).names)


def test_the_data_module_streams(shards: Path) -> None:
    data = SegmentationData("stream", str(shards), crop_size=(8, 16), batch_size=4, num_workers=0)
    assert data.num_classes == 3
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert len(batches) == len(data.train_dataloader()) == 5
    for batch in batches:
        assert batch["image"].shape == (4, 3, 8, 16)
        assert batch["image"].dtype == torch.uint8
        assert batch["mask"].shape == (4, 8, 16)
        assert batch["mask"].dtype == torch.int64
    stored = ShardSet(shards, "val")
    for k, batch in enumerate(data.val_dataloader()):
        assert batch["name"] == [stored.names[k]]
        assert torch.equal(batch["image"][0], stored.read(k)[0])
        assert torch.equal(batch["mask"][0], stored.read(k)[1].long())
    assert k == 4


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_fit_and_test_on_shards(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data.format=stream", f"--data.root={shards}", "--trainer.accelerator=cpu"]
    fit = ["--model.network=fcn", "--model.backbone=tiny", "--trainer.max_epochs=2"]
    where = f"--trainer.default_root_dir={tmp_path}"
    size = ["--data.batch_size=4", "--data.num_workers=0", "--data.crop_size=16"]
    assert main(["fit", *options, *fit, *size, where]) == 0
    run = next(tmp_path.glob("fcn/version_0"))
    assert (
        main(["test", "--model", str(run), *options, where]) == 2
    )  # the shards have no split "test"
    assert "(they have train, val)" in capsys.readouterr().err


def test_windows_of_several_images_are_refused_and_rare_ones_are_not(shards: Path) -> None:
    options = {"crop_size": (8, 16), "num_workers": 0, "batch_size": 4}
    for share in ({"copy_paste": 0.5}, {"mosaic": 0.5}):
        with pytest.raises(UserError, match="a stream of shards cannot; leave them out"):
            SegmentationData("stream", str(shards), **options, **share).setup("fit")
    data = SegmentationData("stream", str(shards), **options, rare_windows=0.5)
    data.setup("fit")
    assert next(iter(data.train_dataloader()))["mask"].shape == (4, 8, 16)
