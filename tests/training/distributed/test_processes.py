"""Several processes train and score as one does."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

from scenewise.apps.cli import main
from scenewise.data import SegmentationData
from scenewise.training.distributed.cpu_sync_batch_norm import (
    CPUSyncBatchNorm,
    _Synced1d,
    _Synced2d,
)
from scenewise.training.task import SegmentationTask

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")

SCENES = """--data.format scenes --data.scenes_train 9 --data.scenes_val 5
    --data.scenes_size [32,64]
    --data.num_workers 0 --trainer.accelerator cpu"""


class Gradients(Callback):
    """The gradients of every step, after the processes have averaged them."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        named = pl_module.named_parameters()
        self.steps.append({name: p.grad.clone() for name, p in named if p.grad is not None})


def gradients(processes: int, normed: bool = False) -> list[dict[str, torch.Tensor]]:
    """Of three steps in float64, without dropout and batch norm unless ``normed``.

    A step has four images in all. The last entry holds the weights and statistics.
    """
    torch.manual_seed(0)
    data = SegmentationData(
        "scenes", scenes_train=13, scenes_size=(32, 64), batch_size=4 // processes, num_workers=0
    )
    task = SegmentationTask(data.classes, network="danet", backbone="tiny", lr=0.01)
    replace(task.model, normed)
    collected = Gradients()
    trainer = Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        precision="64-true",
        max_steps=3,
        limit_val_batches=0,
        callbacks=[collected],
        plugins=[CPUSyncBatchNorm()] if processes > 1 else None,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, data)
    kinds = {type(module) for module in task.modules()}
    assert not kinds & {_Synced2d, _Synced1d}  # put back
    return [*collected.steps, dict(task.model.state_dict())]


def replace(model: nn.Module, normed: bool) -> None:
    norms = () if normed else (nn.modules.batchnorm._BatchNorm,)
    for name, child in model.named_children():
        if isinstance(child, (nn.Dropout, nn.Dropout2d, *norms)):
            setattr(model, name, nn.Identity())
        else:
            replace(child, normed)


def torchrun(processes: int, *words: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore:.*`max_epochs` was not set")
@pytest.mark.parametrize("normed", [False, True])
def test_two_processes_have_the_gradients_of_the_double_batch(normed: bool, tmp_path: Path) -> None:
    words = [str(tmp_path / "two.pt"), *["normed"] * normed]
    torchrun(2, "-m", "tests.training.distributed.test_processes", *words)
    actual = torch.load(tmp_path / "two.pt", weights_only=True)
    expected = gradients(1, normed)
    assert len(actual) == len(expected) == 4
    assert normed == any("running_var" in name for name in expected[-1])
    for one, other in zip(actual, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-6, atol=1e-12)


def test_an_odd_set_is_scored_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    runs = shlex.split(f"{SCENES} --trainer.default_root_dir {tmp_path}")
    network = ["--model.network", "fcn", "--model.backbone", "tiny"]
    assert main(["fit", *runs, *network, "--trainer.max_steps", "2", "--name", "a"]) == 0
    test = ["test", *runs, "--model", str(tmp_path / "a" / "version_0")]
    assert main([*test, "--name", "one"]) == 0
    one = scores(tmp_path / "one")
    assert sum(int(n) for n in one[0].split() for n in n.split(",") if n.isdigit()) > 5000
    torchrun(2, "-m", "scenewise", *test, "--name", "two")  # of five images
    two = scores(tmp_path / "two")
    assert two[0] == one[0]
    assert two[1]["about"] == one[1]["about"]
    assert two[1]["test"] == pytest.approx(one[1]["test"], rel=1e-12)


def scores(run: Path) -> tuple[str, dict[str, Any]]:
    """The confusion matrix and the metrics that a run wrote."""
    folder = run / "version_0"
    return (folder / "confusion.csv").read_text(), json.loads((folder / "metrics.json").read_text())


if __name__ == "__main__":
    steps = gradients(2, "normed" in sys.argv)
    if os.environ["RANK"] == "0":
        torch.save(steps, sys.argv[1])
