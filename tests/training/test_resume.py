"""A run that was killed and resumed ends as an uninterrupted one, bit for bit."""

import csv
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from scenewise.apps.cli import main
from scenewise.data.scenes import Scenes
from scenewise.errors import UserError
from scenewise.models import load_model
from scenewise.training import trainer as trainer_module
from scenewise.training.callbacks import run_folder
from scenewise.training.callbacks.figures import RunFigures
from scenewise.training.checkpoint import _is_whole, newest_whole, resume_point

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")

# 5 batches and 3 optimiser steps an epoch; dropout, an average of the weights, and validations that
# fall between the two batches of a step.
FIT = shlex.split("""fit --data.format scenes --data.scenes_train 10 --data.scenes_val 3
    --data.scenes_size [32,64] --data.batch_size 2 --data.scale [0.5,1.5] --data.photometric true
    --model.network danet --model.backbone tiny --trainer.accelerator cpu --trainer.max_epochs 3
    --trainer.accumulate_grad_batches 2 --trainer.val_check_interval 3 --ema 0.6 --name run""")

# A process that is killed in the middle of writing its checkpoint number sys.argv[1].
KILLED = """
import os, signal, sys
import torch
from scenewise.apps.cli import main
from scenewise.data.scenes import Scenes

saves = 0
def save(value, path, real=torch.save):
    global saves
    real(value, path)
    saves += 1
    if saves == int(sys.argv[1]):
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

torch.save = save
sys.exit(main(sys.argv[2:]))
"""


class Killed(BaseException):
    """Nothing handles it, so nothing is written after it, as after SIGKILL."""


class KillAt(Callback):
    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.fit_loop.total_batch_idx == self.batch:
            raise Killed


@pytest.fixture(autouse=True, scope="module")
def _alone() -> Iterator[None]:
    """The hub is not asked, no figures are drawn; signal handlers are put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(run_folder, "save_figure", lambda *_: None)  # a second each
        patch.setattr(RunFigures, "_draw", lambda *_: None)
        yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    root = tmp_path_factory.mktemp("whole")
    assert main([*FIT, "--data.num_workers", "0", "--trainer.default_root_dir", str(root)]) == 0
    return root / "run" / "version_0"


def words(root: Path, *more: str) -> list[str]:
    return [*FIT, "--data.num_workers", "2", "--trainer.default_root_dir", str(root), *more]


def same(one: Any, other: Any, where: str = "") -> None:
    """Every tensor and number is equal."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for k, (a, b) in enumerate(zip(one, other, strict=True)):
            same(a, b, f"{where}/{k}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def compare(run: Path, whole: Path) -> None:
    """Checkpoint, model, scores and log of two runs."""
    actual, expected = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        for folder in (run, whole)
    )
    for checkpoint in (actual, expected):
        for name in [name for name in checkpoint["callbacks"] if name.startswith("ModelCheck")]:
            state = checkpoint["callbacks"].pop(name)
            checkpoint["best"] = state["best_model_score"]  # the rest are paths
        del checkpoint["loops"]  # Lightning counts the resumed epoch twice
    assert {"optimizer_states", "lr_schedulers", "averaging_state", "resume", "validated"} < set(
        expected
    )
    same(actual, expected)
    same(load_model(run).state_dict(), load_model(whole).state_dict())
    for name in ("metrics.json", "metrics.csv", "confusion.csv"):
        assert (run / name).read_text() == (whole / name).read_text(), name


@pytest.mark.parametrize(
    ("batch", "more"), [(4, ()), (7, ("--save_every", "2")), (13, ("--save_every", "1"))]
)
def test_killed_at_a_batch(
    batch: int, more: tuple[str, ...], whole: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    own = trainer_module._run_callbacks
    monkeypatch.setattr(trainer_module, "_run_callbacks", lambda s: [KillAt(batch), *own(s)])
    with pytest.raises(Killed):
        main(words(tmp_path, *more))
    monkeypatch.setattr(trainer_module, "_run_callbacks", own)
    assert main(words(tmp_path, *more, "--ckpt_path", "last")) == 0
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["version_0"]
    compare(tmp_path / "run" / "version_0", whole)


def test_killed_while_a_checkpoint_is_written(whole: Path, tmp_path: Path) -> None:
    saves = "6"  # last, best, last, last, best, last
    done = subprocess.run(
        [sys.executable, "-c", KILLED, saves, *words(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder = tmp_path / "run" / "version_0" / "checkpoints"
    [partial] = folder.glob(".last*")
    assert not _is_whole(partial)
    assert newest_whole(folder) == folder / "best.ckpt"  # written just before
    assert _is_whole(folder / "last.ckpt")
    assert main(words(tmp_path, "--ckpt_path", "last")) == 0
    compare(tmp_path / "run" / "version_0", whole)


class SignalAt(Callback):
    """The signal arrives when ``hook`` runs in batch ``batch`` (of all epochs)."""

    def __init__(self, hook: str, batch: int, number: int) -> None:
        self.batch, self.number, self.counts = batch, number, 0
        setattr(self, hook, self._send)

    def _send(self, trainer: Trainer, *_: Any) -> None:
        total = trainer.fit_loop.total_batch_idx
        self.counts += total == self.batch and not trainer.sanity_checking
        if self.counts == 1 + trainer.validating:  # in a validation, with the second image
            self.counts = 99
            os.kill(os.getpid(), self.number)


def interrupted(callback: Callback, root: Path, monkeypatch: Any) -> int:
    """The exit code of a training with ``callback``."""
    own = trainer_module._run_callbacks
    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "_run_callbacks", lambda stage: [callback, *own(stage)])
        return main([*words(root), "--data.num_workers", "0"])


@pytest.mark.parametrize(
    ("hook", "batch", "number", "step"),
    [
        ("on_train_batch_start", 6, signal.SIGTERM, 3),  # between the two batches of a step
        ("on_after_backward", 3, signal.SIGINT, 1),  # gradients of two batches are added
        ("on_train_batch_end", 4, signal.SIGINT, 3),  # weights have changed: the step is finished
        ("on_validation_batch_start", 7, signal.SIGTERM, 4),  # the average is swapped in
        ("on_validation_batch_start", 2, signal.SIGINT, 1),  # in the first epoch
        ("on_train_batch_start", 5, signal.SIGINT, 3),  # a new epoch
    ],
)
def test_interrupted_anywhere(
    hook: str,
    batch: int,
    number: int,
    step: int,
    whole: Path,
    tmp_path: Path,
    monkeypatch: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = interrupted(SignalAt(hook, batch, number), tmp_path, monkeypatch)
    assert code == (143 if number == signal.SIGTERM else 130)
    last = tmp_path / "run" / "version_0" / "checkpoints" / "last.ckpt"
    printed = capsys.readouterr().err
    assert f"step {step} is saved in {last}; resume with --ckpt_path last" in printed
    best = number == signal.SIGINT and (last.parent / "best.ckpt").exists()
    assert ("the best model so far is in" in printed) == best
    assert (last.parents[1] / "model.safetensors").exists() == best
    assert torch.load(last, weights_only=True)["global_step"] == step
    assert main([*words(tmp_path, "--ckpt_path", "last"), "--data.num_workers", "0"]) == 0
    compare(tmp_path / "run" / "version_0", whole)


@pytest.mark.parametrize(("read", "code"), [(2, 130), (8, 143)])
def test_interrupted_while_an_image_is_read(
    read: int, code: int, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """An image that takes minutes, in the first batch or in the fourth."""
    reads, begun = 0, False

    @wraps(Trainer.fit)
    def begin(*args: Any, fit: Any = Trainer.fit, **options: Any) -> None:
        nonlocal begun
        begun = True  # what is measured before the training reads images too
        fit(*args, **options)

    def slow(self: Scenes, index: int, draw: Any = Scenes.read) -> Any:
        nonlocal reads
        reads += begun and len(self) == 10  # training images
        if reads == read:
            os.kill(os.getpid(), signal.SIGINT if code == 130 else signal.SIGTERM)
            time.sleep(60)
        return draw(self, index)

    monkeypatch.setattr(Scenes, "read", slow)
    monkeypatch.setattr(Trainer, "fit", begin)
    start = time.monotonic()
    assert main([*words(tmp_path, "--data.crop_size", "32"), "--data.num_workers", "0"]) == code
    assert time.monotonic() - start < 50
    printed, last = capsys.readouterr().err, tmp_path / "run/version_0/checkpoints/last.ckpt"
    assert last.exists() == (code == 143)
    if code == 143:
        assert "step 1 is saved in" in printed
        loops = torch.load(last, weights_only=True)["loops"]["fit_loop"]
        assert loops["epoch_loop.batch_progress"]["total"]["ready"] == 3
    else:
        assert "interrupted; no batch was finished, so there is nothing to resume" in printed


def test_a_longer_training_resumes_a_finished_one(whole: Path, tmp_path: Path) -> None:
    last = str(whole / "checkpoints" / "last.ckpt")
    more = ["--ckpt_path", last, "--trainer.max_epochs", "4", "--name", "longer"]
    assert main(words(tmp_path, *more)) == 0
    run = tmp_path / "longer" / "version_0"
    actual = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert actual["global_step"] == 12
    with (run / "metrics.csv").open() as file:
        assert {int(row["epoch"]) for row in csv.DictReader(file)} == {3}


def test_nothing_to_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--ckpt_path", "last", "--trainer.max_epochs", "1"]
    assert main(words(tmp_path, *more)) == 0  # a job script has one line for every start
    assert "no checkpoint under" in capsys.readouterr().out
    assert (tmp_path / "run" / "version_0" / "model.safetensors").is_file()


def test_the_best_of_the_newest_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no best checkpoint under"):
        resume_point("best", tmp_path)
    for age, run in enumerate(["version_1", "version_0"]):
        file = tmp_path / run / "checkpoints" / "best.ckpt"
        file.parent.mkdir(parents=True)
        torch.save({"scenewise": {}, "global_step": 7 + age}, file)
        os.utime(file, (1000 - age, 1000 - age))
    point = resume_point("best", tmp_path)
    assert point is not None
    assert (point.path.parent.parent.name, point.steps) == ("version_1", 7)


def test_a_run_folder_is_its_newest_whole_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="no whole checkpoint in"):
        resume_point(tmp_path, tmp_path / "runs")
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    torch.save({"scenewise": {}, "global_step": 5}, last)
    point = resume_point(tmp_path, tmp_path / "runs")
    assert point is not None
    assert (point.path, point.steps) == (last, 5)
    assert main(["test", "--data.format", "scenes", "--ckpt_path", str(tmp_path)]) == 2
    assert f"score its best model with --model {tmp_path}" in capsys.readouterr().err


def test_the_newest_whole_checkpoint(tmp_path: Path) -> None:
    for age, name in enumerate(["new.ckpt", "old.ckpt"]):
        torch.save({"weights": torch.rand(1000)}, tmp_path / name)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    assert newest_whole(tmp_path) == tmp_path / "new.ckpt"
    content = bytearray((tmp_path / "new.ckpt").read_bytes())
    content[len(content) // 2] ^= 1  # one bit of a weight
    (tmp_path / "new.ckpt").write_bytes(content)
    os.utime(tmp_path / "new.ckpt", (1000, 1000))
    assert newest_whole(tmp_path) == tmp_path / "old.ckpt"
    (tmp_path / "old.ckpt").write_bytes(b"PK")
    assert newest_whole(tmp_path) is None
