"""fit, validate and test from the command line, on a few images."""

import csv
import functools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from PIL import Image

import scenewise
from scenewise import Predictor
from scenewise.apps.cli import main
from scenewise.apps.options.fit import EXAMPLES
from scenewise.data import SegmentationData
from scenewise.errors import UserError
from scenewise.models import create_model, load_model
from scenewise.models.fingerprint import model_fingerprint
from scenewise.training import defaults, length
from scenewise.training import trainer as trainer_module
from scenewise.training.distributed.cpu_sync_batch_norm import CPUSyncBatchNorm
from scenewise.training.loggers import _free_version
from scenewise.training.metrics.boundary import boundary_counts
from scenewise.training.metrics.calibration import calibration_error, reliability
from scenewise.training.metrics.confusion import confusion_matrix, mean_iou
from scenewise.training.provenance import data_revision
from scenewise.training.task import SegmentationTask

HEIGHT, WIDTH = 40, 56
TINY = ["--model.network", "danet", "--model.backbone", "tiny"]
TINY += ["--data.num_workers", "0", "--trainer.accelerator", "cpu"]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def write_images(root: Path, splits: dict[str, int], seed: int = 0) -> None:
    """Images whose colour shows the class, in the folder layout."""
    random = np.random.default_rng(seed)
    colors = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]])
    for split, count in splits.items():
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for k in range(count):
            mask = np.repeat(np.repeat(random.integers(0, 3, (5, 7)), 8, 0), 8, 1)
            image = colors[mask] + random.integers(-30, 30, (HEIGHT, WIDTH, 3))
            mask[:2] = 255
            Image.fromarray(image.astype(np.uint8)).save(root / "images" / split / f"{k}.png")
            Image.fromarray(mask.astype(np.uint8)).save(root / "masks" / split / f"{k}.png")
    classes = {"names": ["red", "green", "blue"], "colors": colors.tolist()}
    (root / "classes.json").write_text(json.dumps(classes))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    write_images(root, {"train": 6, "val": 2, "test": 2})
    return root


@pytest.fixture(scope="module")
def runs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs, which holds one run of DANet with EMA: danet/version_0."""
    root = tmp_path_factory.mktemp("runs")
    words = ["--trainer.default_root_dir", str(root), "--trainer.max_epochs", "6", "--ema", "0.6"]
    words += ["--model.optimizer", "adamw", "--model.lr", "0.003", "--model.head_multiplier", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        assert main(["fit", *TINY, *data(images), *words]) == 0
    return root


def data(root: Path) -> list[str]:
    return ["--data.format", "folder", "--data.root", str(root), "--data.batch_size", "2"]


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def test_a_run_leaves_a_model_scores_and_logs(runs: Path) -> None:
    run = runs / "danet" / "version_0"
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "config.json", "model.safetensors", "metrics.csv"} < names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    model = load_model(run)
    assert model.classes.names == ("red", "green", "blue")
    best = load_model(run / "checkpoints" / "best.ckpt")
    for one, other in zip(model.parameters(), best.parameters(), strict=True):
        assert torch.equal(one, other)
    scores = metrics(run)["val"]
    assert set(scores) >= {"miou", "pixel_accuracy", "iou/red", "iou/green", "iou/blue", "epoch"}
    assert scores["miou"] == pytest.approx(
        np.mean([scores[f"iou/{c}"] for c in model.classes.names])
    )


def test_scores_have_their_provenance(runs: Path, images: Path) -> None:
    run = runs / "danet" / "version_0"
    about = metrics(run)["about"]
    assert about["model_sha256"] == model_fingerprint(load_model(run))
    assert about["scenewise"] == scenewise.__version__
    assert about["protocol"].startswith("whole image")
    split = SegmentationData("folder", str(images)).dataset("val")
    assert about["data"] == {"format": "folder", "split": "val", **data_revision(split)}
    with (run / "confusion.csv").open() as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows] == ["true class", "red", "green", "blue"]
    assert sum(int(n) for row in rows[1:] for n in row[1:]) == len(split) * (HEIGHT - 2) * WIDTH


def test_another_split_can_be_tested(runs: Path, images: Path) -> None:
    words = ["--trainer.default_root_dir", str(runs), "--name", "other", *TINY, *data(images)]
    model = ["--model", str(runs / "danet" / "version_0")]
    assert main(["test", *model, *words, "--data.test_split", "val"]) == 0
    actual = metrics(runs / "other" / "version_0")
    assert actual["about"]["data"]["split"] == "val"
    saved = metrics(runs / "danet" / "version_0")["val"]
    both = saved.keys() & actual["test"].keys()
    assert len(both) >= 8
    assert {n: actual["test"][n] for n in both} == pytest.approx(
        {n: saved[n] for n in both}, abs=1e-9
    )


def test_a_score_of_a_part_says_so(runs: Path, images: Path) -> None:
    words = ["--trainer.default_root_dir", str(runs), "--name", "part", *TINY, *data(images)]
    model = ["--model", str(runs / "danet" / "version_0"), "--trainer.limit_test_batches", "1"]
    assert main(["test", *model, *words]) == 0
    assert metrics(runs / "part" / "version_0")["about"]["data"]["limit_batches"] == 1
    assert "limit_batches" not in metrics(runs / "danet" / "version_0")["about"]["data"]


def test_a_published_protocol_scores_as_the_predictor_does(runs: Path, images: Path) -> None:
    run = runs / "danet" / "version_0"
    words = ["--trainer.default_root_dir", str(runs), "--name", "published", *TINY, *data(images)]
    assert main(["test", "--model", str(run), *words, "--protocol", "paper_ccnet"]) == 0
    actual = metrics(runs / "published" / "version_0")
    assert actual["about"]["protocol"] == "paper_ccnet"
    model = load_model(run).to(memory_format=torch.channels_last)  # as when training, to the bit
    predictor = Predictor.from_protocol(model, "paper_ccnet")
    matrix, boundaries, sums = torch.zeros(3, 3, dtype=torch.int64), [], 0
    for sample in SegmentationData("folder", str(images)).dataset("test"):
        score, labels = predictor.scores(sample["image"].as_subclass(torch.Tensor)).max(0)
        matrix += confusion_matrix(labels, sample["mask"], 3)
        boundaries.append(boundary_counts(labels, sample["mask"], 3))
        sums = sums + reliability(score, labels, sample["mask"])
    shared, either = torch.stack(boundaries).sum(0).double()
    saved = actual["test"]
    assert saved["miou"] == pytest.approx(mean_iou(matrix), abs=1e-12)
    assert saved["boundary_miou"] == pytest.approx((shared / either).nanmean().item(), abs=1e-12)
    assert saved["calibration_error"] == pytest.approx(calibration_error(sums), abs=1e-9)
    with Image.open(runs / "published" / "version_0" / "confusion.png") as image:
        assert min(image.size) > 300


def test_an_unknown_protocol_is_one_sentence(
    runs: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(runs / "danet" / "version_0")]
    assert main(["validate", *model, *TINY, *data(images), "--protocol", "danet"]) == 2
    message = capsys.readouterr().err
    assert "--model.protocol is 'danet'; did you mean 'danet_ss'? Choose one of" in message


def test_the_log_has_rates_gammas_and_scores(runs: Path) -> None:
    with (runs / "danet" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("lr/backbone", "gamma/head.position.1", "gamma/head.channel.1", "train/loss_main"):
        values = [float(row[name]) for row in rows if row[name]]
        assert len(values) == 18  # every step of a short epoch
        assert all(map(math.isfinite, values))
    assert len([row for row in rows if row["val/miou"]]) == 6
    assert len([row for row in rows if row["val/loss"]]) == 6


def test_the_config_has_what_was_chosen(runs: Path) -> None:
    config = yaml.safe_load((runs / "danet" / "version_0" / "config.yaml").read_text())
    assert config["data"]["crop_size"] == [HEIGHT, WIDTH]
    assert config["model"]["backbone"] == "tiny"
    assert "classes" not in config["model"]
    assert config["seed_everything"] == 0


def test_the_config_repeats_the_run_in_a_new_folder(runs: Path) -> None:
    assert main(["fit", "--config", str(runs / "danet" / "version_0" / "config.yaml")]) == 0
    again = metrics(runs / "danet" / "version_1")["val"]
    assert again == pytest.approx(metrics(runs / "danet" / "version_0")["val"], abs=1e-6)


def test_validating_the_run_gives_its_scores(
    runs: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--trainer.default_root_dir", str(runs), "--name", "check", *TINY, *data(images)]
    assert main(["validate", "--model", str(runs / "danet" / "version_0"), *words]) == 0
    saved = metrics(runs / "danet" / "version_0")["val"]
    actual = metrics(runs / "check" / "version_0")["val"]
    assert {name: actual.pop(name) for name in ("boundary_miou", "calibration_error")}
    assert actual == pytest.approx({name: saved[name] for name in actual}, abs=1e-9)
    printed = capsys.readouterr().out
    for name in ("red", "green", "blue"):
        [row] = [line for line in printed.splitlines() if f" {name} " in line]
        assert f"{100 * saved[f'iou/{name}']:.1f}" in row
    assert f"mIoU {100 * saved['miou']:.1f} %, pixel accuracy " in printed


def test_a_run_is_scored_in_the_windows_of_its_training(
    runs: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--trainer.default_root_dir", str(runs), *TINY, *data(images)]
    network = ["--model.network", "danet", "--model.eval_window", "24", "--trainer.max_steps", "1"]
    assert main(["fit", "--name", "windows", *network, *words]) == 0
    run = runs / "windows" / "version_0"
    assert metrics(run)["about"]["eval_window"] == 24
    for name, options, window in (("same", [], 24), ("whole", ["--model.eval_window", "0"], 0)):
        capsys.readouterr()
        assert main(["validate", "--model", str(run), "--name", name, *options, *words]) == 0
        said = "scored as in the training: windows of 24 pixels" in capsys.readouterr().out
        assert said == (name == "same")
        scored = metrics(runs / name / "version_0")
        assert scored["about"]["eval_window"] == window
        assert name == "whole" or scored["val"]["miou"] == metrics(run)["val"]["miou"]


def test_a_run_is_tested_by_folder_and_by_checkpoint(runs: Path, images: Path) -> None:
    run = runs / "danet" / "version_0"
    root = ["--trainer.default_root_dir", str(runs)]
    assert main(["test", f"--model={run}", *root, *TINY, *data(images)]) == 0
    checkpoint = run / "checkpoints" / "best.ckpt"
    words = ["--config", str(run / "config.yaml"), "--ckpt_path", str(checkpoint)]
    assert main(["test", *words]) == 0
    one, other = (metrics(runs / "test" / f"version_{n}")["test"] for n in (0, 1))
    assert one == pytest.approx(other, abs=1e-9)
    assert 0 <= one["miou"] <= 1


def test_a_test_without_blocks(
    runs: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(runs / "danet" / "version_0")
    words = ["--model", run, "--trainer.default_root_dir", str(runs), *TINY, *data(images)]
    blocks = ["--without", "head.position.1", "--without=head.channel.1"]
    assert main(["test", "--name", "without", "--quality", "good", *blocks, *words]) == 0
    folder, printed = runs / "without" / "version_0", capsys.readouterr().out
    written = json.loads((folder / "without.json").read_text())
    assert written["with"]["miou"] == pytest.approx(metrics(folder)["test"]["miou"], abs=1e-9)
    assert list(written["without"]) == ["head.position.1", "head.channel.1"]
    assert written["about"] == metrics(folder)["about"]
    assert written["about"]["quality"] == "good"
    assert "examined only for whole images in one pass" in printed
    with Image.open(folder / "without.png") as opened:
        assert min(opened.size) > 100
    assert "--without is an option of test" in one_line(
        ["validate", *blocks, "--data.root", str(images)], capsys
    )


def test_a_run_is_resumed(runs: Path) -> None:
    run = runs / "danet" / "version_0"
    words = ["--config", str(run / "config.yaml"), "--name", "resumed", "--trainer.max_epochs", "8"]
    assert main(["fit", *words, "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]) == 0
    resumed = runs / "resumed" / "version_0"
    last = torch.load(resumed / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 24
    assert {path.name for path in (resumed / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    with (resumed / "metrics.csv").open() as file:
        assert {int(row["epoch"]) for row in csv.DictReader(file)} == {6, 7}


def test_training_starts_from_a_trained_model(runs: Path, images: Path) -> None:
    run = runs / "danet" / "version_0"
    words = ["--model", str(run), "--model.lr", "1e-9", "--model.network", "fcn", "--name", "tuned"]
    words += ["--trainer.max_steps", "1", "--trainer.default_root_dir", str(runs)]
    assert main(["fit", *TINY, *data(images), *words]) == 0
    tuned = load_model(runs / "tuned" / "version_0")
    for one, other in zip(tuned.parameters(), load_model(run).parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_two_words_are_enough(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def offline(*args: Any, pretrained: bool, **options: Any) -> Any:
        if pretrained:
            raise UserError("the hub is far away")
        return create_model(*args, pretrained=False, **options)

    monkeypatch.setattr(defaults, "create_model", offline)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(length._EPOCHS, False, 2)
    assert main(["fit", "--data.format", "folder", "--data.root", str(images)]) == 0
    [run] = (tmp_path / "runs" / "danet_plus").iterdir()
    recipe = json.loads((run / "config.json").read_text())["model"]
    assert recipe["backbone"] == defaults.default_backbone()
    assert "starts from random weights" in caplog.text
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["backbone"] == recipe["backbone"]
    assert config["data"]["batch_size"] >= 2
    steps = 2 * max(1, 6 // config["data"]["batch_size"])
    assert config["trainer"]["max_steps"] == steps
    assert config["model"]["pretrained"] is False
    assert {"lr", "optimizer", "weight_decay", "output_stride"} <= config["model"].keys()
    assert {"crop_size", "num_workers", "scale"} <= config["data"].keys()
    names = ("trainer", "model", "data", "checkpoint")
    empty = [key for name in names for key, value in config[name].items() if value is None]
    assert empty == ["check_val_every_n_epoch"]  # validated every so many steps
    printed = capsys.readouterr().out
    for said in (
        "classes in 6 images: ",
        "crops ",
        "start: random weights",
        "learning rate 0.00333",
    ):
        assert said in printed
    assert f"budget 1h: {steps} steps of " in printed
    assert f"{steps} steps, validated {steps} times on 2 images" in printed
    assert "forecast: " in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "epoch 0, step 1: train loss"),
        (["--trainer.enable_progress_bar", "true"], "training: 100%"),
        (["--trainer.callbacks", "TQDMProgressBar"], "Epoch 0: 100%"),
        (["--trainer.callbacks", "RichProgressBar"], "Epoch 0/0"),
    ],
)
def test_progress_is_shown(
    words: list[str],
    message: str,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    some = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
    some += ["--trainer.default_root_dir", str(tmp_path), "--model.network", "fcn"]
    assert main(["fit", *TINY, *data(images), *some, *words]) == 0
    assert message in "".join(capsys.readouterr())


def test_lightning_advertises_nothing(images: Path, tmp_path: Path) -> None:
    root = ["--trainer.default_root_dir", str(tmp_path), "--name", "run"]
    model = ["--model", str(tmp_path / "run" / "version_0")]
    fit = ["fit", *TINY, "--model.network", "fcn", "--trainer.max_steps", "1"]
    for words in (fit, ["test", *model, "--trainer.accelerator", "cpu"]):
        done = subprocess.run(
            [sys.executable, "-m", "scenewise", *words, *data(images), *root],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "mIoU" in done.stdout
        printed = done.stdout + done.stderr
        for word in ("Tip:", "litlogger", "litmodels", "TPU", "GPU", "Warning", "deprecat"):
            assert word not in printed, word


def test_training_beats_guessing(runs: Path) -> None:
    assert metrics(runs / "danet" / "version_0")["val"]["pixel_accuracy"] > 0.5


def test_the_moving_average_is_what_is_kept(tmp_path: Path) -> None:
    weights: list[torch.Tensor] = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Trainer, task: Any, *_: Any) -> None:
            weights.append(task.model.head.classify[1].weight.detach().clone())

    scenes = SegmentationData(
        "scenes", scenes_train=8, scenes_size=(32, 64), batch_size=2, num_workers=0
    )
    module = SegmentationTask(scenes.classes, network="fcn", backbone="tiny", lr=0.05)
    run = Trainer(
        accelerator="cpu",
        max_steps=4,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Watch(), trainer_module._moving_average(0.2)],
    )
    run.fit(module, scenes)
    expected = weights[0]
    for weight, decay in zip(weights[1:], (2 / 11, 0.2, 0.2), strict=True):  # it rises to 0.2
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(module.model.head.classify[1].weight.detach(), expected)
    assert not torch.equal(expected, weights[-1])


def test_an_old_lightning_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(trainer_module.callbacks, "WeightAveraging")
    with pytest.raises(UserError, match=r"lightning 2\.6"):
        trainer_module._moving_average(0.9)


@pytest.mark.parametrize(("gpus", "synced"), [(0, False), (1, False), (2, True)])
def test_batch_norm_is_synchronised_on_several_gpus(
    gpus: int, synced: bool, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []

    def watched(**options: Any) -> Trainer:
        given.append(options)
        return Trainer(**options)

    @functools.wraps(Trainer.fit)
    def fit(self: Trainer, *_: Any, **__: Any) -> None: ...

    monkeypatch.setattr(trainer_module, "Trainer", watched)
    monkeypatch.setattr(Trainer, "fit", fit)
    monkeypatch.setattr(trainer_module, "_count_gpus", lambda *_: gpus)
    root = ["--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", *TINY, *data(images), *root]) == 0
    assert given[0].get("sync_batchnorm", False) == synced
    if gpus:
        assert given[0]["max_epochs"] == 240
    else:
        assert given[0]["max_steps"] == 40 * 3  # they take less than an hour


@pytest.mark.parametrize(("devices", "synced"), [("1", False), ("2", True)])
def test_batch_norm_is_synchronised_on_several_cpu_processes(
    devices: str, synced: bool, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    actual: list[bool] = []

    @functools.wraps(Trainer.fit)
    def fit(self: Any, *_: Any, **__: Any) -> None:
        actual.append(isinstance(getattr(self.strategy, "_layer_sync", None), CPUSyncBatchNorm))

    monkeypatch.setattr(Trainer, "fit", fit)
    root = ["--trainer.default_root_dir", str(tmp_path), "--trainer.devices", devices]
    assert main(["fit", *TINY, *data(images), *root, "--trainer.accelerator", "cpu"]) == 0
    assert actual == [synced]


def test_gpus_are_counted_as_lightning_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        trainer_module.CUDAAccelerator, "auto_device_count", staticmethod(lambda: 4)
    )
    monkeypatch.setattr(
        trainer_module.CUDAAccelerator,
        "parse_devices",
        staticmethod(lambda devices: list(range(devices)) if isinstance(devices, int) else devices),
    )
    assert trainer_module._count_gpus("auto", "auto", 2) == 8
    assert trainer_module._count_gpus("gpu", 2, 1) == 2
    assert trainer_module._count_gpus("gpu", [1, 3, 5], 2) == 6
    assert trainer_module._count_gpus("cpu", 2, 1) == 0


def test_runs_are_numbered(tmp_path: Path) -> None:
    assert _free_version(tmp_path) == 0
    for name in ("version_0", "version_9", "version_10", "version_x", "other_77"):
        (tmp_path / name).mkdir()
    assert _free_version(tmp_path) == 11


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_help_shows_arguments_and_examples(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    message = capsys.readouterr().out
    assert ("--model.network" if command == "fit" else "--model ") in message
    assert "--data.root" in message
    assert EXAMPLES[command] in message


def one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The only line on standard error of a command that ends with exit code 2."""
    capsys.readouterr()
    assert main(words) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("scenewise: error: ")
    return line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.network", "danett"], "--model.network is 'danett'; did you mean 'danet'?"),
        (["--model.backbone", "resnet-1"], "unknown backbone 'resnet-1'"),
        (["--model.head", '{"sharp": 1}'], "no option 'sharp'"),
        (["--model.lr", "fast"], "--model.lr is 'fast' but must be a number or null"),
        (["--model.optimizer", "lion"], "--model.optimizer is 'lion'; choose one of sgd, adamw"),
        (["--model.bogus", "1"], "unknown option '--model.bogus'; see scenewise fit --help"),
        (["--trainer.max_epochs", "many"], "--trainer.max_epochs is 'many'"),
        (["--trainer.accelerator", "abacus"], "abacus"),
        (["--data.format", "folter"], "--data.format is 'folter'"),
        (["--data.root", "/no/such/folder"], "/no/such/folder"),
        (["--data.batch_size", "-3"], "batch_size -3"),
        (["--ema", "3"], "--ema is 3.0"),
        (["--config", "none.yaml"], "none.yaml"),
        (["--model", "no/such/run"], "no model in 'no/such/run'"),
        (["--ckpt_path", "none.ckpt"], "no such file: 'none.ckpt'"),
        (["stray"], "unrecognized arguments: stray; see scenewise fit --help"),
    ],
)
def test_a_wrong_argument_is_one_sentence(
    words: list[str],
    message: str,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = ["--trainer.default_root_dir", str(tmp_path)]
    assert message in one_line(["fit", *TINY, *data(images), *root, *words], capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model:\n  netwrk: fcn\n", "'model.netwrk'; did you mean '--model.network'?"),
        ("modle:\n  network: fcn\n", "'modle.network'"),
        ("model:\n  network: [\n", "Problems parsing config"),
        ("model:\n  optimizer: lion\n", "is 'lion' but must be one of sgd, adamw or null; see"),
        (
            "model:\n  output_stride: wide\n",
            "--model.output_stride is 'wide' but must be a whole number",
        ),
    ],
)
def test_a_wrong_config_is_one_sentence(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    assert message in one_line(["fit", "--config", str(tmp_path / "wrong.yaml")], capsys)


def test_home_in_a_config_is_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "home.yaml").write_text("data:\n  root: ~/none\n")
    message = one_line(["fit", "--config", str(tmp_path / "home.yaml"), *TINY], capsys)
    assert str(tmp_path / "none") in message


def test_nothing_to_test_is_reported(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing to test; give --model" in one_line(["test", *data(images)], capsys)


def test_data_with_other_classes_is_reported(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    create_model("fcn", num_classes=5, backbone="tiny").save_pretrained(tmp_path)
    message = one_line(["test", "--model", str(tmp_path), *data(images)], capsys)
    assert "has 5 classes but the data has 3" in message


def test_another_models_checkpoint_is_reported(
    runs: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(runs / "danet" / "version_0" / "checkpoints" / "best.ckpt")
    words = ["--model.network", "fcn", "--trainer.default_root_dir", str(tmp_path)]
    message = one_line(["test", *TINY, *data(images), *words, "--ckpt_path", checkpoint], capsys)
    assert "holds danet with backbone tiny and 3 classes" in message
    assert "this is fcn" in message


class Payload:
    """A pickle that would call print when it is opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("executed",)


@pytest.mark.parametrize(
    ("content", "message"),
    [({"state_dict": {}}, "not a checkpoint of Scenewise"), (Payload(), "could run code")],
)
def test_a_foreign_checkpoint_is_refused_unopened(
    content: Any,
    message: str,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    words = [*TINY, *data(images), "--ckpt_path", str(tmp_path / "x.ckpt")]
    capsys.readouterr()
    assert main(["test", *words]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "executed" not in printed.out


def unreadable(root: Path) -> None:
    (root / "images" / "train" / "1.png").write_bytes(b"not a image")


def other_size(root: Path) -> None:
    Image.new("L", (9, 9)).save(root / "masks" / "train" / "1.png")


def foreign_id(root: Path) -> None:
    Image.new("L", (WIDTH, HEIGHT), 77).save(root / "masks" / "train" / "1.png")


def no_mask(root: Path) -> None:
    (root / "masks" / "train" / "1.png").unlink()


def empty_split(root: Path) -> None:
    for path in (root / "images" / "val").iterdir():
        path.unlink()


def no_class(root: Path) -> None:
    (root / "classes.json").write_text('{"names": []}')


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (unreadable, "1.png"),
        (other_size, "mask 9x9"),
        (foreign_id, f"77 ({WIDTH * HEIGHT} pixels"),
        (no_mask, "have no mask"),
        (empty_split, "have no image, the first is"),
        (no_class, "classes.json"),
    ],
)
@pytest.mark.parametrize("workers", ["0", "1"])
def test_bad_data_is_one_sentence(
    harm: Callable[[Path], None],
    message: str,
    workers: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_images(tmp_path / "bad", {"train": 4, "val": 1})
    harm(tmp_path / "bad")
    words = ["--trainer.max_epochs", "1", "--trainer.default_root_dir", str(tmp_path / "runs")]
    words += ["--data.crop_size", "32", "--data.num_workers", workers]
    capsys.readouterr()
    code = main(["fit", *TINY, "--model.network", "fcn", *data(tmp_path / "bad"), *words])
    assert code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("scenewise: error: ")
    assert message in line
