"""Resume with changed options: each takes effect and is reported, or is refused by its name."""

import csv
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

import scenewise
from scenewise.apps.cli import main
from scenewise.data import SegmentationData
from scenewise.errors import UserError
from scenewise.training.callbacks import run_folder
from scenewise.training.callbacks.figures import RunFigures
from scenewise.training.checkpoint import resume_point
from scenewise.training.fit import _split
from scenewise.training.optim import poly
from scenewise.training.task import SegmentationTask
from scenewise.training.trainer import build_trainer

DATA: dict[str, Any] = {
    "scenes_train": 4,
    "scenes_val": 1,
    "scenes_size": (32, 48),
    "batch_size": 2,
    "num_workers": 0,
}
OPTIONS: dict[str, Any] = {
    "network": "danet",
    "backbone": "tiny",
    "accelerator": "cpu",
    "max_epochs": 2,
    "enable_progress_bar": False,
}


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    """The hub is not asked, and no figures are drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(run_folder, "save_figure", lambda *_: None)
        patch.setattr(RunFigures, "_draw", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with one of 4 steps in 2 epochs: run/version_0."""
    root = tmp_path_factory.mktemp("runs")
    scenewise.fit(SegmentationData("scenes", **DATA), root=root, name="run", **OPTIONS)
    return root


def content(root: Path) -> dict[str, bytes]:
    """Every file under ``root``."""
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def trainer_of(root: Path, **changed: Any) -> Trainer:
    """The Trainer that resumes the run with changed options."""
    ema = changed.pop("ema", None)
    of_data, of_task, of_trainer = _split(OPTIONS | DATA | changed)
    data = SegmentationData("scenes", **of_data)
    point = resume_point("last", root / "run")
    assert point is not None
    return build_trainer(
        SegmentationTask(data.classes, pretrained=False, **of_task),
        data,
        name="run",
        resume=point,
        ema=ema,
        default_root_dir=root,
        **of_trainer,
    )


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("lr", 0.05, "--model.lr 0.05 (was 0.0033333333333333335)"),
        ("momentum", 0.5, "--model.momentum 0.5 (was 0.9)"),
        ("weight_decay", 0.1, "--model.weight_decay 0.1 (was 0.0001)"),
        ("head_multiplier", 1.0, "--model.head_multiplier 1.0 (was 10.0)"),
        ("power", 2.0, "--model.power 2.0 (was 0.9)"),
        ("floor", 0.5, "--model.floor 0.5 (was 0.0)"),
        ("warmup", 3, "--model.warmup 3 (was 0)"),
        ("class_weights", [2.0] * 17, "--model.class_weights [2.0,2.0,"),
        ("loss", "cross_entropy+dice", "--model.loss cross_entropy+dice (was cross_entropy)"),
        ("ohem", True, "--model.ohem [0.7,100000] (was null)"),
        ("max_epochs", 3, "--trainer.max_epochs 3 (was 2)"),
        ("max_steps", 9, "--trainer.max_steps 9 (was -1)"),
        ("precision", "bf16-mixed", "--trainer.precision bf16-mixed (was null)"),
        ("gradient_clip_val", 1.0, "--trainer.gradient_clip_val 1.0 (was null)"),
        ("limit_train_batches", 1, "--trainer.limit_train_batches 1 (was null)"),
        ("crop_size", (16, 32), "--data.crop_size [16,32] (was [32,48])"),
        ("flip", False, "--data.flip false (was true)"),
        ("ema", 0.9, "--ema 0.9 (was null)"),
    ],
)
def test_what_takes_effect_is_reported(
    option: str, value: Any, said: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer_of(root, **{option: value})
    printed = capsys.readouterr().out
    assert f"resumed with {said}" in printed
    assert printed.count("(was ") == 1


def test_nothing_is_reported_where_nothing_changed(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer_of(root, batch_size=None, max_epochs=None)  # not given: those of the checkpoint
    assert "resumed with" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"optimizer": "adamw"}, "--model.optimizer is adamw but '.*' was trained with sgd"),
        ({"batch_size": 1}, "--data.batch_size is 1 but '.*' was trained with 2"),
        ({"devices": 2}, "--trainer.devices is 2 but '.*' was trained with 1"),
        ({"accumulate_grad_batches": 2}, "--trainer.accumulate_grad_batches is 2"),
        ({"scenes_train": 6}, "--data.root is 6 images but '.*' was trained with 4 images"),
        ({"max_epochs": 1}, "--trainer.max_epochs is 1 but '.*' has 2 behind it"),
        ({"max_steps": 3}, "--trainer.max_steps is 3 but '.*' has 4 behind it"),
        ({"network": "fcn"}, "holds danet with backbone tiny .* but this is fcn"),
        ({"head": {"similarity": "direct"}}, "with similarity null but this one has .direct"),
    ],
)
def test_what_cannot_change_is_refused_by_name(
    changed: dict[str, Any], message: str, root: Path
) -> None:
    before = content(root)
    with pytest.raises(UserError, match=message):
        trainer_of(root, **changed)
    assert content(root) == before


def test_two_processes_with_half_the_batch_take_the_same_images(root: Path) -> None:
    trainer_of(root, batch_size=1, devices=2)


def test_the_average_cannot_be_left_out(tmp_path: Path) -> None:
    options = OPTIONS | {"root": tmp_path, "name": "run"}
    scenewise.fit(SegmentationData("scenes", **DATA), ema=0.9, **options)
    before = content(tmp_path)
    with pytest.raises(UserError, match=r"--ema is not given but '.*' was trained with 0.9"):
        scenewise.fit(SegmentationData("scenes", **DATA), resume="last", **options)
    assert content(tmp_path) == before


class Watch(Callback):
    """The learning rates and options of every step, and the crops."""

    def __init__(self) -> None:
        self.groups: list[list[dict[str, Any]]] = []
        self.sizes: set[tuple[int, ...]] = set()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        groups = trainer.optimizers[0].param_groups
        self.groups.append([{k: v for k, v in g.items() if k != "params"} for g in groups])
        self.sizes.add(tuple(batch["image"].shape[2:]))


def test_what_is_reported_takes_effect(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    watch = Watch()
    changed = {"lr": 0.05, "head_multiplier": 2.0, "momentum": 0.5, "weight_decay": 0.1}
    changed |= {"max_epochs": 4, "power": 2.0, "floor": 0.5}
    run = scenewise.fit(
        SegmentationData("scenes", **DATA, crop_size=(16, 32)),
        **OPTIONS | changed | {"root": tmp_path, "name": "run"},
        callbacks=watch,
        resume="last",
        ema=0.5,
    )
    assert len(watch.groups) == 4
    for step, (backbone, head) in enumerate(watch.groups, start=4):
        factor = poly(step, 8, power=2.0, floor=0.5)
        assert backbone["lr"] == 0.05 * factor
        assert head["lr"] == 0.1 * factor
        assert (head["momentum"], head["weight_decay"]) == (0.5, 0.1)
    assert watch.sizes == {(16, 32)}
    with (run.folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert [int(row["step"]) for row in rows] == list(range(8))
    assert "averaging_state" in torch.load(
        run.folder / "checkpoints" / "last.ckpt", weights_only=True
    )


def test_a_refused_resume_leaves_the_run_as_it_was(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    before = content(tmp_path)
    config = str(tmp_path / "run" / "version_0" / "config.yaml")
    words = ["fit", "--config", config, "--ckpt_path", "last"]
    words += ["--trainer.default_root_dir", str(tmp_path)]
    for wrong in (["--data.scenes_train", "6"], ["--model.optimizer", "adamw"]):
        assert main([*words, *wrong]) == 2
        assert f"error: {wrong[0].replace('scenes_train', 'root')} is" in capsys.readouterr().err
        assert content(tmp_path) == before
    assert main(words) == 0
    log = "run/version_0/metrics.csv"
    assert content(tmp_path)[log] == before[log]  # it was finished


def test_data_with_other_classes_is_refused(root: Path, tmp_path: Path) -> None:
    data = SegmentationData("scenes", **DATA)
    data.classes = replace(data.classes, names=("street", *data.classes.names[1:]))
    before = content(root)
    with pytest.raises(UserError, match=r"class 0 'street' but '.*' was trained with 'road'"):
        scenewise.fit(data, root=root, name="run", resume="last", **OPTIONS)
    assert content(root) == before
