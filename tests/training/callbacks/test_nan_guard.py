"""A training that goes wrong stops with one sentence and loses nothing."""

import errno
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from scenewise.apps.cli import main, sentence
from scenewise.training import trainer as trainer_module
from scenewise.training.checkpoint import _is_whole
from tests.data.trees import write_tree

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")

FIT = """fit --data.format folder --data.root DIR --data.batch_size 2 --data.num_workers 0
    --model.network fcn --model.backbone tiny --trainer.accelerator cpu --trainer.max_epochs 4
    --name run""".split()  # noqa: SIM905


class Before(Callback):
    """Do something before a batch."""

    def __init__(self, batch: int, act: Callable[[Trainer, Any], None]) -> None:
        self.batch, self.act = batch, act

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.fit_loop.total_batch_idx == self.batch:
            self.act(trainer, pl_module)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_tree(tmp_path / "data", size=(40, 56))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "data"


def fit(
    tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
    act: Callable[[Trainer, Any], None],
    *more: str,
) -> tuple[int, Path]:
    """Exit code, and the folder of the checkpoints."""
    own = trainer_module._run_callbacks
    monkeypatch.setattr(
        trainer_module, "_run_callbacks", lambda stage: [*own(stage), Before(batch, act)]
    )
    words = [str(tree) if word == "DIR" else word for word in FIT]
    code = main([*words, "--trainer.default_root_dir", str(tree.parent), *more])
    return code, tree.parent / "run" / "version_0" / "checkpoints"


def poison(trainer: Trainer, module: Any) -> None:
    with torch.no_grad():
        next(module.parameters()).fill_(torch.inf)


def test_a_nan_loss(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    batches = len(list((tree / "images" / "train").iterdir())) // 2
    code, folder = fit(tree, monkeypatch, batches + 1, poison)
    message = capsys.readouterr().err
    assert code == 2
    assert f"the loss became nan in step {batches + 1} with the images" in message
    assert str(folder / "last.ckpt") in message
    names = {path.stem for path in (tree / "images" / "train").iterdir()}
    assert sum(name in message.split("images")[1] for name in names) == 2
    weights = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in weights.values())


def test_a_nan_in_the_first_loss(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(tree, monkeypatch, 0, poison)[0] == 2
    assert "no checkpoint was written yet, so start again" in capsys.readouterr().err


def test_a_data_folder_that_vanishes(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    batches = len(list((tree / "images" / "train").iterdir())) // 2
    code, folder = fit(tree, monkeypatch, batches, lambda *_: shutil.rmtree(tree))
    assert code == 2
    assert f"{tree}" in capsys.readouterr().err
    assert _is_whole(folder / "last.ckpt")
    assert _is_whole(folder / "best.ckpt")


def test_a_disk_that_is_full(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit on the size of files stops the writer as a full disk does."""
    batches = len(list((tree / "images" / "train").iterdir())) // 2
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        code, folder = fit(
            tree,
            monkeypatch,
            batches,
            lambda *_: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1])),
            *("--trainer.logger", "false"),  # TensorBoard's own thread would fail first
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    message = capsys.readouterr().err
    assert code == 2
    assert "cannot write" in message or "cannot be written" in message
    assert str(folder) in message
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    for path in folder.iterdir():
        assert _is_whole(path)
        assert torch.load(path, weights_only=True)["global_step"] == batches


def test_a_folder_that_cannot_be_written(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree.parent / "taken").write_text("a file, not a folder")
    words = [str(tree) if word == "DIR" else word for word in FIT]
    assert main([*words, "--trainer.default_root_dir", str(tree.parent / "taken")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert (tree.parent / "taken").read_text() == "a file, not a folder"


def test_an_operation_without_a_deterministic_implementation_is_reported() -> None:
    """On GPUs PyTorch has none for the cross-entropy over pixels; here one that CPUs lack."""
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError) as error:
            torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
    finally:
        torch.use_deterministic_algorithms(False)
    message = sentence(error.value)
    assert message is not None
    start = "put_ has no deterministic implementation on this device; give --trainer"
    assert message.startswith(start)


def test_other_errors_of_the_system_are_no_sentence() -> None:
    assert sentence(OSError(errno.EIO, "Input/output error")) is None
    message = sentence(PermissionError(errno.EACCES, "Permission denied", "runs/danet"))
    assert message is not None
    assert "'runs/danet' cannot be written: Permission denied" in message
