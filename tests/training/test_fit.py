"""``scenewise.fit`` from Python trains as the command line does."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer

import scenewise
from scenewise.apps.cli import main
from scenewise.data import SegmentationData
from scenewise.errors import UserError
from scenewise.training.callbacks.last_checkpoint import LastCheckpoint
from scenewise.training.callbacks.memory_advice import MemoryAdvice
from scenewise.training.callbacks.nan_guard import NaNGuard
from scenewise.training.callbacks.run_folder import RunFolder
from scenewise.training.task import SegmentationTask
from tests.data.formats.own_trees import own_tree, table
from tests.data.trees import write_tree
from tests.training.test_resume import KillAt, Killed, compare, same

# Two optimiser steps of two batches an epoch, dropout, and validations between the two batches.
OPTIONS: dict[str, Any] = {
    "network": "danet",
    "backbone": "tiny",
    "accelerator": "cpu",
    "max_epochs": 3,
    "accumulate_grad_batches": 2,
    "val_check_interval": 3,
    "ema": 0.6,
}


@pytest.fixture(autouse=True, scope="module")
def _offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


def scenes() -> SegmentationData:
    return SegmentationData(
        "scenes",
        scenes_train=8,
        scenes_val=3,
        scenes_size=(32, 64),
        batch_size=2,
        num_workers=0,
        photometric=True,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> scenewise.Run:
    """A run that nothing interrupted."""
    return scenewise.fit(scenes(), root=tmp_path_factory.mktemp("runs"), **OPTIONS)


def test_a_run_folder_is_written(run: scenewise.Run) -> None:
    assert (run.folder.parent.name, run.folder.name) == ("danet", "version_0")
    names = {path.name for path in run.folder.iterdir()}
    files = {"config.yaml", "config.json", "model.safetensors", "metrics.json", "metrics.csv"}
    assert names >= files | {"confusion.csv", "confusion.png", "checkpoints"}
    names = {path.name for path in (run.folder / "checkpoints").iterdir()}
    assert names == {"best.ckpt", "last.ckpt"}
    same(scenewise.load_model(run.folder).state_dict(), run.model.state_dict())
    assert not run.model.training
    saved = json.loads((run.folder / "metrics.json").read_text())["val"]
    assert {name: saved[name] for name in run.scores} == run.scores
    assert run.matrix is not None
    assert 0 < run.matrix.sum() <= 3 * 32 * 64


def test_the_command_line_repeats_the_run_to_the_bit(run: scenewise.Run, tmp_path: Path) -> None:
    words = ["fit", "--config", str(run.folder / "config.yaml"), "--trainer.default_root_dir"]
    assert main([*words, str(tmp_path)]) == 0
    repeated = tmp_path / "danet" / "version_0"
    compare(repeated, run.folder)
    saved, original = (
        yaml.safe_load((folder / "config.yaml").read_text()) for folder in (repeated, run.folder)
    )
    del saved["trainer"]["default_root_dir"], original["trainer"]["default_root_dir"]
    for section in ("data", "model"):  # every choice, from Python too
        assert saved[section] == original[section]
    assert original["trainer"].items() <= saved["trainer"].items()  # which has the command's own
    assert original["model"].keys() >= {"lr", "optimizer", "output_stride", "pretrained"}
    assert saved["seed_everything"] == original["seed_everything"] == 0


def test_a_killed_run_is_resumed_to_the_bit(run: scenewise.Run, tmp_path: Path) -> None:
    interrupted = {**OPTIONS, "root": tmp_path, "save_every": 1, "callbacks": [KillAt(6)]}
    with pytest.raises(Killed):
        scenewise.fit(scenes(), **interrupted)
    assert not (tmp_path / "danet" / "version_0" / "model.safetensors").exists()
    del interrupted["callbacks"]
    resumed = scenewise.fit(scenes(), **interrupted, resume="last")
    assert resumed.folder == tmp_path / "danet" / "version_0"
    compare(resumed.folder, run.folder)
    same(resumed.model.state_dict(), run.model.state_dict())
    assert resumed.scores == run.scores


class Poison(Callback):
    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == 1:
            with torch.no_grad():
                next(pl_module.parameters()).fill_(torch.nan)


def test_a_loss_that_is_not_a_number_stops_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the loss became nan in step 1 with the images scene"):
        scenewise.fit(scenes(), root=tmp_path, callbacks=Poison(), **OPTIONS)


def test_ctrl_c_raises_keyboard_interrupt_and_leaves_the_best(tmp_path: Path) -> None:
    class Interrupt(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            if trainer.current_epoch == 2:
                raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        scenewise.fit(scenes(), root=tmp_path, callbacks=Interrupt(), **OPTIONS)
    assert signal.getsignal(signal.SIGINT) is handler
    assert scenewise.load_model(tmp_path / "danet" / "version_0").classes == scenes().classes


def test_a_folder_of_images_is_enough(tmp_path: Path) -> None:
    write_tree(tmp_path / "data", size=(40, 56))
    run = scenewise.fit(
        tmp_path / "data",
        format="folder",
        batch_size=2,
        num_workers=0,
        network="fcn",
        backbone="tiny",
        accelerator="cpu",
        max_steps=1,
        root=tmp_path / "runs",
        name="street",
        seed=3,
    )
    assert run.folder == tmp_path / "runs" / "street" / "version_0"
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert (config["seed_everything"], config["data"]["seed"]) == (3, 3)
    assert config["data"]["crop_size"] == [40, 56]


def test_wrong_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown option 'max_step'; did you mean 'max_steps'"):
        scenewise.fit(scenes(), root=tmp_path, max_step=3)
    with pytest.raises(UserError, match="batch_size must be given to the SegmentationData"):
        scenewise.fit(scenes(), root=tmp_path, batch_size=3)
    with pytest.raises(UserError, match="abacus"):
        scenewise.fit(scenes(), root=tmp_path, network="fcn", backbone="tiny", accelerator="abacus")
    assert not list(tmp_path.iterdir())


def test_build_trainer_adds_what_the_command_line_adds(tmp_path: Path) -> None:
    data = scenes()
    task = SegmentationTask(data.classes, network="fcn", backbone="tiny")
    trainer = scenewise.build_trainer(task, data, default_root_dir=tmp_path, accelerator="cpu")
    kinds = {type(callback) for callback in trainer.callbacks}  # type: ignore[attr-defined]
    assert kinds >= {NaNGuard, MemoryAdvice, RunFolder, LastCheckpoint}
    assert [type(logger).__name__ for logger in trainer.loggers] == [
        "RunLog",
        "TensorBoardLogger",
    ]
    assert trainer.log_dir == str(tmp_path / "fcn" / "version_0")


def test_a_resumed_run_keeps_its_validation_images(tmp_path: Path) -> None:
    data = own_tree(tmp_path / "data", splits=("train",), stored=table(0, 255))
    of_data: dict[str, Any] = {"crop_size": 8, "num_workers": 0}
    options: dict[str, Any] = {"network": "fcn", "backbone": "tiny", "accelerator": "cpu"}
    options |= {"enable_progress_bar": False, "root": tmp_path / "runs"}
    first = scenewise.fit(data, max_steps=1, **of_data, **options)
    lists = {s: (first.folder / "splits" / f"{s}.txt").read_text() for s in ("train", "val")}
    assert sorted("".join(lists.values()).split()) == ["p0", "p1", "p2"]
    for kind in ("images", "masks"):  # more images would be divided in another way
        for k in range(3, 9):
            shutil.copy(data / kind / "train/p0.png", data / kind / f"train/p{k}.png")
    module = SegmentationData(root=str(data), **of_data)
    again = scenewise.fit(module, max_steps=2, resume="last", **options)
    assert again.folder == first.folder
    assert "".join(f"{name}\n" for name in module.dataset("val").names) == lists["val"]
