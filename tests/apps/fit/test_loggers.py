"""Loggers of the user's: the run folder and resume stay, and nothing is overwritten."""

import csv
import shlex
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger

import scenewise
from scenewise.apps.cli import main
from scenewise.data import SegmentationData
from scenewise.training.callbacks import run_folder
from scenewise.training.callbacks.figures import RunFigures
from tests.training.test_resume_options import content

pytestmark = [
    pytest.mark.filterwarnings("ignore:The filesystem tracking backend"),  # MLflow prefers SQLite
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # inside wandb and MLflow
]
FIT = shlex.split("""fit --data.format scenes --data.scenes_train 2 --data.scenes_val 1
    --data.num_workers 0 --data.scenes_size [32,48] --data.batch_size 2 --model.network fcn
    --model.backbone tiny --trainer.accelerator cpu --trainer.max_steps 1 --name run""")
FILES = {"config.yaml", "config.json", "model.safetensors", "metrics.json", "checkpoints"}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative folders are in ``tmp_path``; the hub is not asked, and no figures are drawn."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setattr(run_folder, "save_figure", lambda *_: None)
    monkeypatch.setattr(RunFigures, "_draw", lambda *_: None)


def fit(logger: Any, steps: int, **options: Any) -> Path:
    data = SegmentationData(
        "scenes", scenes_train=2, scenes_val=1, scenes_size=(32, 48), batch_size=2, num_workers=0
    )
    return scenewise.fit(
        data,
        name="run",
        network="fcn",
        backbone="tiny",
        accelerator="cpu",
        max_steps=steps,
        logger=logger,
        **options,
    ).folder


def none(folder: Path) -> bool:
    return False


def wandb_offline(folder: Path) -> Logger:
    return WandbLogger(project="street", save_dir=folder, offline=True)


def mlflow_in_files(folder: Path) -> Logger:
    return MLFlowLogger("street", tracking_uri=folder.as_uri())


@pytest.mark.parametrize("logger", [none, CSVLogger, wandb_offline, mlflow_in_files])
def test_run_folder_and_resume_stay(logger: Any, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    first = fit(logger(logs), 1)
    assert first == tmp_path / "runs" / "run" / "version_0"
    assert {path.name for path in first.iterdir()} >= FILES
    _finish(logger)
    assert fit(logger(logs), 2, resume="last") == first
    _finish(logger)
    before = content(first)
    assert fit(False, 1).name == "version_1"  # a new run
    assert content(first) == before
    assert any(logs.rglob("*")) == (first / "metrics.csv").exists() == (logger is not none)
    if logger is not none:
        with (first / "metrics.csv").open() as file:
            steps = [row["step"] for row in csv.DictReader(file) if row["train/loss"]]
        assert steps == ["0", "1"]


def _finish(logger: Any) -> None:
    if logger is wandb_offline:
        import wandb

        wandb.finish()


def test_mlflow_has_the_scores(tmp_path: Path) -> None:
    folder = fit(mlflow_in_files(tmp_path / "logs"), 1)
    [score] = (tmp_path / "logs").glob("*/*/metrics/val/miou")
    with (folder / "metrics.csv").open() as file:
        [expected] = [row["val/miou"] for row in csv.DictReader(file) if row["val/miou"]]
    assert float(score.read_text().split()[1]) == pytest.approx(float(expected))


@pytest.mark.parametrize("words", [["TensorBoardLogger"], ["TensorBoardLogger", "save_dir", "own"]])
def test_tensorboard_by_name(words: list[str], tmp_path: Path) -> None:
    name, *option = words
    more = [f"--trainer.logger.{option[0]}", option[1]] if option else []
    assert main([*FIT, "--trainer.logger", name, *more]) == 0
    folder = tmp_path / "runs" / "run" / "version_0"
    assert {path.name for path in folder.iterdir()} >= FILES | {"metrics.csv"}
    [events] = tmp_path.rglob("events.out.tfevents*")
    assert events.parent == (tmp_path / "own" / "lightning_logs" / "version_0" if more else folder)


def test_a_missing_package_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FIT, "--trainer.logger", "CometLogger"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "CometLogger cannot be used: a package is missing; pip install comet-ml" in line
    assert not any(tmp_path.iterdir())
