"""What a run leaves in its folder."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from scenewise.data import SegmentationData
from scenewise.models import load_model
from scenewise.training.callbacks.progress import TrainingLines
from scenewise.training.callbacks.run_folder import RunFolder
from scenewise.training.metrics.confusion import mean_iou
from scenewise.training.task import SegmentationTask

pytestmark = [
    # Lightning advises more workers; these sets are tiny.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    # Inside Lightning, with torch 2.9 and newer.
]


class Spoil(Callback):
    """Make the network useless from the third epoch on, so that the best is not the last."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.current_epoch >= 2:
            with torch.no_grad():
                for parameter in pl_module.model.parameters():
                    parameter.fill_(torch.nan)


class StopNow(Callback):
    """The user's Ctrl-C in the third epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt


@pytest.fixture
def _signals() -> Iterator[None]:
    """Lightning switches Ctrl-C off when it shuts down."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def fit(folder: Path, *callbacks: Callback, **options: Any) -> tuple[SegmentationTask, RunFolder]:
    data = SegmentationData(
        "scenes", scenes_train=8, scenes_val=3, scenes_size=(32, 64), batch_size=4, num_workers=0
    )
    task = SegmentationTask(data.classes, network="fcn", backbone="tiny", lr=0.005)
    run = RunFolder()
    saver = ModelCheckpoint(folder / "checkpoints", "best", monitor="val/miou", mode="max")
    chosen: dict[str, Any] = {"max_epochs": 4, "logger": False, "enable_progress_bar": False}
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        enable_model_summary=False,
        callbacks=[run, saver, *callbacks],
        **{**chosen, **options},
    )
    try:
        trainer.fit(task, data)
    finally:
        task.trainer = trainer
    return task, run


def evaluated(model: nn.Module) -> float:
    data = SegmentationData("scenes", scenes_val=3, scenes_size=(32, 64), num_workers=0)
    task = SegmentationTask(data.classes, network="fcn", backbone="tiny")
    task.model = model  # type: ignore[assignment]
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    [scores] = trainer.validate(task, data, verbose=False)
    return scores["val/miou"]


def test_the_best_model_is_left_with_its_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task, run = fit(tmp_path, Spoil(), TrainingLines())
    assert all(p.isnan().all() for p in task.model.parameters())  # the last one is useless
    model = load_model(tmp_path)
    best = load_model(tmp_path / "checkpoints" / "best.ckpt")
    assert all(map(torch.equal, model.state_dict().values(), best.state_dict().values()))
    saved = json.loads((tmp_path / "metrics.json").read_text())["val"]
    assert saved["step"] in (2, 4)
    assert saved["miou"] == pytest.approx(evaluated(model))
    assert run.matrix is not None
    assert saved["miou"] == mean_iou(run.matrix)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert len(lines) == 4
    assert f"mIoU {100 * saved['miou']:.1f} %" in lines[saved["epoch"]]


@pytest.mark.usefixtures("_signals")
def test_a_stopped_training_leaves_the_best_so_far(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        fit(tmp_path, StopNow())
    interrupt = stop.value.__context__
    assert getattr(interrupt, "__notes__", None) == [f"the best model so far is in {tmp_path}"]
    best = load_model(tmp_path / "checkpoints" / "best.ckpt")
    pairs = zip(load_model(tmp_path).parameters(), best.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")  # there is none
def test_without_validation_the_last_model_is_left(tmp_path: Path) -> None:
    task, run = fit(tmp_path, max_epochs=1, limit_val_batches=0)
    pairs = zip(load_model(tmp_path).parameters(), task.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert run.matrix is None
    assert not (tmp_path / "metrics.json").exists()
