"""Every public argument of Lightning's Trainer and every callback: it works, or one sentence."""

import inspect
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, callbacks
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.profilers import SimpleProfiler
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import scenewise
from scenewise.data import SegmentationData
from scenewise.errors import UserError
from scenewise.training.callbacks import run_folder
from scenewise.training.callbacks.figures import RunFigures

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of Lightning, about tiny sets

# Values that work, one step each; a pair has the message of a refusal.
ARGUMENTS: dict[str, list[Any]] = {
    "accelerator": ["cpu", "auto", ("abacus", "abacus")],
    "strategy": ["auto", ("abacus", "abacus")],
    "devices": [1, "auto", (0, "devices")],
    "num_nodes": [1],
    "precision": ["32-true", "bf16-mixed", "64-true", ("8", "8")],
    "logger": [False, True],
    "callbacks": [[]],
    "fast_dev_run": [True, 1],
    "max_epochs": [1, (-1, "its length must be known"), (-2, "-2")],
    "min_epochs": [1],
    "max_steps": [1, (-2, "-2")],
    "min_steps": [1],
    "max_time": ["00:00:00:30"],
    "limit_train_batches": [1, 1.0, 0.5, (0, "limit_train_batches is 0")],
    "limit_val_batches": [0, 1],
    "limit_test_batches": [1],
    "limit_predict_batches": [1],
    "overfit_batches": [(1, "overfit_batches cannot be used")],
    "val_check_interval": [1, 0.5, "00:00:00:01"],
    "check_val_every_n_epoch": [1, 2],
    "num_sanity_val_steps": [0, 1, -1],
    "log_every_n_steps": [1],
    "enable_checkpointing": [False, True],
    "enable_progress_bar": [False, True],
    "enable_model_summary": [True],
    "accumulate_grad_batches": [2],
    "gradient_clip_val": [1.0],
    "gradient_clip_algorithm": ["value", ("abacus", "abacus")],
    "deterministic": [True, "warn"],
    "benchmark": [True],
    "inference_mode": [False],
    "use_distributed_sampler": [False],
    "profiler": ["simple", "advanced", SimpleProfiler(), ("abacus", "profiler")],
    "detect_anomaly": [True],
    "barebones": [(True, "barebones")],
    "plugins": [[], AsyncCheckpointIO()],
    "sync_batchnorm": [True],
    "reload_dataloaders_every_n_epochs": [1],
    "enable_autolog_hparams": [False],
    "model_registry": [None],
}
CALLBACKS: dict[str, list[Any]] = {
    "BackboneFinetuning": [(lambda: callbacks.BackboneFinetuning(1), "--model.freeze backbone")],
    "BaseFinetuning": [],
    "BasePredictionWriter": [],
    "BatchSizeFinder": [(callbacks.BatchSizeFinder, "--data.batch_size")],
    "Callback": [callbacks.Callback],
    "Checkpoint": [callbacks.Checkpoint],
    "DeviceStatsMonitor": [callbacks.DeviceStatsMonitor],
    "EMAWeightAveraging": [callbacks.EMAWeightAveraging],
    "EarlyStopping": [lambda: callbacks.EarlyStopping("val/miou", mode="max")],
    "GradientAccumulationScheduler": [
        (lambda: callbacks.GradientAccumulationScheduler({0: 2}), "accumulate_grad_batches"),
    ],
    "LambdaCallback": [callbacks.LambdaCallback],
    "LearningRateFinder": [lambda: callbacks.LearningRateFinder(num_training_steps=2)],
    "LearningRateMonitor": [callbacks.LearningRateMonitor],
    "ModelCheckpoint": [callbacks.ModelCheckpoint],
    "ModelPruning": [(lambda: callbacks.ModelPruning("l1_unstructured"), "channels-last")],
    "ModelSummary": [callbacks.ModelSummary],
    "OnExceptionCheckpoint": [lambda: callbacks.OnExceptionCheckpoint("crash")],
    "ProgressBar": [],
    "RichModelSummary": [callbacks.RichModelSummary],
    "RichProgressBar": [callbacks.RichProgressBar],
    "SpikeDetection": [],
    "StochasticWeightAveraging": [(lambda: callbacks.StochasticWeightAveraging(0.01), "--ema")],
    "TQDMProgressBar": [callbacks.TQDMProgressBar],
    "ThroughputMonitor": [
        lambda: callbacks.ThroughputMonitor(lambda batch: len(batch["name"])),
    ],
    "Timer": [lambda: callbacks.Timer("00:00:01:00")],
    "WeightAveraging": [callbacks.WeightAveraging],
}


def test_nothing_is_left_out() -> None:
    arguments = inspect.signature(Trainer.__init__).parameters.keys()
    assert ARGUMENTS.keys() == arguments - {"self", "default_root_dir"}
    assert CALLBACKS.keys() >= {n for n in callbacks.__all__ if n != "SpikeDetection"}


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Relative folders are in ``tmp_path``; the hub is not asked, and no figures are drawn."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(run_folder, "save_figure", lambda *_: None)
    monkeypatch.setattr(RunFigures, "_draw", lambda *_: None)
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(deterministic)


def fit(**options: Any) -> scenewise.Run:
    data = SegmentationData(
        "scenes", scenes_train=4, scenes_val=1, scenes_size=(16, 48), batch_size=2, num_workers=0
    )
    chosen = {"accelerator": "cpu", "max_epochs": 1} | options
    if "max_steps" in options:
        del chosen["max_epochs"]
    return scenewise.fit(data, network="fcn", backbone="tiny", **chosen)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in ARGUMENTS.items() for value in values]
)
def test_an_argument(name: str, value: Any) -> None:
    if isinstance(value, tuple):
        with pytest.raises(UserError, match=value[1]):
            fit(**{name: value[0]})
        assert not any(Path("runs").rglob("*"))
        return
    run = fit(**{name: value})
    assert (run.folder / "model.safetensors").exists() == (name != "fast_dev_run")


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in CALLBACKS.items() for value in values]
)
def test_a_callback(name: str, value: Callable[[], Any]) -> None:
    if isinstance(value, tuple):
        with pytest.raises((UserError, MisconfigurationException), match=value[1]):
            fit(callbacks=value[0](), max_epochs=2)
        return
    if name == "DeviceStatsMonitor" and find_spec("psutil") is None:
        with pytest.raises(UserError, match="a package is missing; pip install psutil"):
            fit(callbacks=value())
        return
    run = fit(callbacks=value(), max_epochs=2)
    assert (run.folder / "model.safetensors").exists()


def test_the_learning_rate_that_was_found_is_trained_with() -> None:
    found: list[tuple[float, float, float]] = []

    class Watch(callbacks.Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
            found.append((pl_module.lr, *rates))

    class Find(callbacks.Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
            pl_module.lr = 0.25  # as LearningRateFinder does

    fit(callbacks=[Find(), Watch()])
    assert found[0] == pytest.approx((0.25, 0.25, 2.5))
