"""``fit`` with images without labels: the teacher, what is printed and recorded, and resume."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from PIL import Image

import scenewise
from scenewise.apps.cli import main
from scenewise.data import SegmentationData
from scenewise.errors import UserError
from scenewise.training.callbacks import run_folder
from scenewise.training.callbacks.figures import RunFigures
from scenewise.training.forecast import Forecaster, Plan
from scenewise.training.task import SegmentationTask
from tests.data.trees import write_tree
from tests.training.test_resume import KillAt, Killed, compare

# 3 batches and 2 optimiser steps an epoch.
OPTIONS: dict[str, Any] = {
    "network": "fcn",
    "backbone": "tiny",
    "optimizer": "sgd",
    "accelerator": "cpu",
    "max_epochs": 2,
    "accumulate_grad_batches": 2,
    "unlabelled_threshold": 0.34,  # of three classes: nearly all pixels count
    "log_every_n_steps": 1,
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
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled dataset in DIR, four images of other sizes in DIR2."""
    place = tmp_path_factory.mktemp("images")
    write_tree(place / "DIR", train=6, val=1, size=(24, 32))
    (place / "DIR2").mkdir()
    for k in range(4):
        values = np.random.default_rng(k).integers(0, 256, (20 + 8 * k, 40, 3), np.uint8)
        Image.fromarray(values).save(place / "DIR2" / f"u{k}.png")
    return place


def data(images: Path, **options: Any) -> SegmentationData:
    sizes: dict[str, Any] = {"crop_size": (16, 24), "batch_size": 2, "num_workers": 0}
    sizes |= {"unlabelled": str(images / "DIR2")} | options
    return SegmentationData(root=str(images / "DIR"), **sizes)


class Watch(Callback):
    """The weights after each step, and the teacher before the next one."""

    def __init__(self) -> None:
        self.students: list[dict[str, torch.Tensor]] = []
        self.teachers: list[dict[str, torch.Tensor]] = []
        self.with_gradient: set[str] = set()

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if trainer.global_step > len(self.teachers):
            teacher = pl_module.teacher()
            assert not any(module.training for module in teacher.modules())
            self.teachers.append({k: v.clone() for k, v in teacher.state_dict().items()})
            self.with_gradient |= {k for k, p in teacher.named_parameters() if p.grad is not None}

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if trainer.global_step > len(self.students):
            state = pl_module.model.state_dict()
            self.students.append({k: v.clone() for k, v in state.items()})


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


@pytest.fixture(scope="module")
def whole(
    images: Path, tmp_path_factory: pytest.TempPathFactory, watch: Watch
) -> tuple[Path, list[str]]:
    """A run that nothing interrupted, and what it printed."""
    root, lines = tmp_path_factory.mktemp("whole"), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *texts, **_: lines.extend(map(str, texts)))
        run = scenewise.fit(data(images), root=root, callbacks=[watch], **OPTIONS)
    return run.folder, "\n".join(lines).splitlines()


def test_the_teacher_is_the_moving_average(whole: tuple[Path, list[str]], watch: Watch) -> None:
    assert len(watch.teachers) == 3
    assert watch.with_gradient == set()
    average = watch.students[0]  # the first step starts it
    for step, (student, teacher) in enumerate(zip(watch.students, watch.teachers, strict=False)):
        if step > 0:
            decay = (1 + step) / (10 + step)  # it rises to 0.99
            average = {
                k: decay * average[k] + (1 - decay) * v if v.is_floating_point() else v
                for k, v in student.items()
            }
        for name, value in average.items():
            if value.is_floating_point():
                assert torch.allclose(teacher[name], value, atol=1e-6), name


def test_what_is_chosen_is_printed_and_recorded(
    whole: tuple[Path, list[str]], images: Path
) -> None:
    folder, lines = whole
    (line,) = [line for line in lines if line.startswith("unlabelled: ")]
    assert line == (
        f"unlabelled: 4 images of '{images / 'DIR2'}', as many in a batch as labelled ones; "
        "pixels count from a probability of 0.34 (EMA teacher), weight 1 after the first tenth of "
        "the steps"
    )
    assert any("EMA 0.99" in line for line in lines)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["ema"] == 0.99
    assert config["data"]["unlabelled"] == str(images / "DIR2")
    assert config["model"]["unlabelled_threshold"] == 0.34
    assert config["model"]["unlabelled_weight"] == 1.0


def test_the_loss_and_its_share_of_pixels_are_logged(whole: tuple[Path, list[str]]) -> None:
    header, *rows = (whole[0] / "metrics.csv").read_text().splitlines()
    columns = header.split(",")
    shares = [row.split(",")[columns.index("train/confident")] for row in rows]
    assert any(share and 0 < float(share) <= 1 for share in shares)
    assert "train/loss_unlabelled" in columns


def test_a_resumed_run_is_equal_to_the_bit(
    whole: tuple[Path, list[str]], images: Path, tmp_path: Path
) -> None:
    options = {"root": tmp_path, "save_every": 1, **OPTIONS}
    with pytest.raises(Killed):
        scenewise.fit(data(images), callbacks=[KillAt(4)], **options)
    assert len(list(tmp_path.rglob("last.ckpt"))) == 1
    run = scenewise.fit(data(images), resume="last", **options)
    compare(run.folder, whole[0])


def test_a_run_cannot_lose_its_unlabelled_images(
    whole: tuple[Path, list[str]], images: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"--unlabelled is not given but .* trained with 4 images"):
        scenewise.fit(data(images, unlabelled=None), resume=whole[0], root=tmp_path, **OPTIONS)


def test_the_forecast_counts_the_teacher_and_the_second_half(images: Path) -> None:
    forecasts = []
    for more in (None, str(images / "DIR2")):
        module = data(images, unlabelled=more)
        module.setup("fit")
        model = SegmentationTask(module.classes, network="fcn", backbone="tiny").model
        forecaster = Forecaster(model, module, torch.device("cpu"), Plan(10, 1, 1, False))
        forecaster.seconds_per_flop = 1e-3  # the arithmetic alone counts
        forecasts.append(forecaster.forecast())
    alone, both = forecasts
    assert 2.2 < both.training / alone.training < 2.5  # 2 batches of three parts, and one of one
    assert both.step_bytes > alone.step_bytes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--unlabelled", "none"], "--unlabelled 'none' does not exist; give a folder of images"),
        (["--unlabelled", "DIR2", "--model.unlabelled_threshold", "2"], "unlabelled_threshold is"),
        (["--unlabelled", "DIR2", "--model.unlabelled_weight", "-1"], "unlabelled_weight is -1"),
        (["--unlabelled", "DIR2", "--trainer.strategy", "fsdp2"], "--unlabelled cannot be used"),
        (["--unlabelled", "DIR/images/val"], "all 1 images in --unlabelled 'DIR/images/val'"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    options: list[str],
    message: str,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(images)
    tiny = ["--model.network", "fcn", "--model.backbone", "tiny", "--trainer.accelerator", "cpu"]
    tiny += ["--trainer.max_steps", "1", "--trainer.default_root_dir", str(tmp_path / "runs")]
    assert main(["fit", "DIR", *tiny, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "runs").exists()


def test_a_trainer_without_a_teacher_is_refused(images: Path, tmp_path: Path) -> None:
    module = data(images)
    task = SegmentationTask(module.classes, network="fcn", backbone="tiny")
    trainer = Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )
    with pytest.raises(UserError, match=r"need the average of the weights; .* scenewise.fit"):
        trainer.fit(task, module)
