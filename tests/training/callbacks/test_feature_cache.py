"""A training on cached features of a frozen backbone is the training without a cache."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from scenewise import create_model
from scenewise.data import SegmentationData
from scenewise.data.cached_views import ViewFormat, outdated
from scenewise.data.shards import ShardSet
from scenewise.errors import UserError
from scenewise.training import trainer as trainer_module
from scenewise.training.callbacks import feature_cache, run_folder
from scenewise.training.callbacks.feature_cache import FeatureCache
from scenewise.training.callbacks.figures import RunFigures
from scenewise.training.checkpoint import resume_point
from scenewise.training.task import SegmentationTask
from scenewise.training.trainer import build_trainer, quiet


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(run_folder, "save_figure", lambda *_: None)  # a second each
    monkeypatch.setattr(RunFigures, "_draw", lambda *_: None)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with weights and statistics of a training."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("source")
    model = create_model("danet_plus", num_classes=2, backbone="tiny", pretrained=False).train()
    model(torch.randn(4, 3, 32, 64) * 2 + 1)  # batch norms that are not the identity
    model.save_pretrained(folder)
    return folder


def data(**options: Any) -> SegmentationData:
    small = {"scenes_train": 5, "scenes_val": 1, "scenes_size": (32, 64), "batch_size": 2}
    return SegmentationData(
        "scenes", **small | {"num_workers": 0, "scale": (0.5, 1.5), "photometric": True} | options
    )


class Seen(Callback):
    """The loss and the gradients of every step, and what the batch held."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.gradients: list[dict[str, Tensor]] = []
        self.names: list[list[str]] = []
        self.images = False

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self.names.append(batch["name"])
        self.images |= "image" in batch

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: Tensor) -> None:
        self.losses.append(float(loss.detach()))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        named = pl_module.named_parameters()
        self.gradients.append({n: p.grad.clone() for n, p in named if p.grad is not None})


def fit(
    source: Path, root: Path, of_data: SegmentationData, resume: bool = False, **options: Any
) -> SegmentationTask:
    """Three epochs without validation, as ``scenewise.fit`` without its forecast."""
    torch.manual_seed(1)
    point = resume_point("last", root / "run") if resume else None
    task = SegmentationTask(of_data.classes, start=str(source), freeze="backbone", lr=0.01)
    given: dict[str, Any] = {"max_epochs": 3, "limit_val_batches": 0, "accelerator": "cpu"}
    trainer = build_trainer(
        task, of_data, default_root_dir=root, name="run", resume=point,
        **given | {"logger": False, "enable_progress_bar": False} | options,
    )  # fmt: skip
    with quiet():
        trainer.fit(task, datamodule=of_data, ckpt_path=point and point.path)
    return task


def fitted(source: Path, root: Path, cache: int | str | None) -> Seen:
    seen = Seen()
    fit(source, root, data(cache_features=cache), callbacks=[seen])
    return seen


def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features in float32."""
    make = lambda folder: FeatureCache(folder, "float32")  # noqa: E731
    monkeypatch.setattr(trainer_module, "FeatureCache", make)


def test_losses_and_gradients_are_those_without_a_cache(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """As many views as epochs: the same images in the same order, with the same dropout."""
    plain = fitted(source, tmp_path, None)
    rounded = fitted(source, tmp_path, 9)
    said = capsys.readouterr().out
    assert "features of 3 views of 5 images" in said  # no more than are read
    exact(monkeypatch)
    cached = fitted(source, tmp_path, "1GiB")
    assert (plain.images, cached.images) == (True, False)
    assert plain.names == cached.names == rounded.names
    assert len(plain.losses) == 6
    torch.testing.assert_close(cached.losses, plain.losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(cached.gradients, plain.gradients, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(rounded.losses, plain.losses, rtol=2e-3, atol=0)  # 11 bits
    assert not list(tmp_path.rglob("*features*"))  # deleted


def test_later_epochs_see_the_views_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epoch 1 has the order of epoch 1 and the views of epoch 0."""
    exact(monkeypatch)
    maps: dict[str, list[Tensor]] = {}

    class Keep(Callback):
        def on_train_batch_start(self, trainer: Trainer, task: Any, batch: Any, index: int) -> None:
            for name, first in zip(batch["name"], batch["features"][-1], strict=True):
                maps.setdefault(name, []).append(first.clone())

    fit(source, tmp_path, data(cache_features=1, scenes_train=4), callbacks=[Keep()])
    assert [len(values) for values in maps.values()] == [3] * 4
    assert all(torch.equal(v[0], other) for v in maps.values() for other in v[1:])
    assert not torch.equal(*(values[0] for values in list(maps.values())[:2]))


class Stop(BaseException):
    """As after SIGKILL."""


class StopAt(Callback):
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == 3:
            raise Stop


def test_a_resumed_training_uses_them_again_unless_something_has_changed(
    source: Path, tmp_path: Path, capsys: Any
) -> None:
    options = {"max_epochs": 2}
    whole = fit(source, tmp_path / "whole", data(cache_features=1), **options)
    with pytest.raises(Stop):
        fit(
            source, tmp_path, data(cache_features=1), save_every=1, callbacks=[StopAt()], **options
        )  # fmt: skip
    features = tmp_path / "run/version_0/features"
    made_from = json.loads((features / "about.json").read_text())["made_from"]
    assert outdated(features, made_from) == []
    assert outdated(features, made_from | {"images": "", "new": ""}) == ["images", "new"]
    assert outdated(tmp_path, made_from) is None
    shutil.copytree(tmp_path / "run", tmp_path / "other" / "run")
    capsys.readouterr()
    again = fit(source, tmp_path, data(cache_features=1), resume=True, **options)
    assert "are used again" in capsys.readouterr().out
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    file = tmp_path / "other/run/version_0/features/views.bin"
    file.write_bytes(file.read_bytes()[:-1])
    changed = data(cache_features=1, flip=False)
    fit(source, tmp_path / "other", changed, resume=True, **options)
    said = capsys.readouterr().out
    assert "cached features are computed again: --data.flip, the file differ\n" in said
    assert not list(tmp_path.rglob("*features*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze": None}, "needs a backbone that does not change; give --model.freeze backbone"),
        ({"freeze": 1}, "needs a backbone that does not change"),
        ({"devices": 2}, "works in one process, but there are 2; give --trainer.devices 1"),
        ({"stream": True}, "reads images in any order, which a stream of shards cannot"),
        ({"fast_dev_run": True}, "fast_dev_run tries single batches"),
        ({"cache": "1KB"}, "1KB is too small for one view of each of 5 images; give 0.1"),
        ({"cache": 0}, "--data.cache_features is '0'; give a number of views, or a size such as"),
    ],
)
def test_refused(source: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(source, tmp_path, **options)
    assert not list(tmp_path.rglob("*features*"))


def train(
    source: Path,
    root: Path,
    *,
    freeze: Any = "backbone",
    cache: Any = 2,
    stream: bool = False,
    **options: Any,
) -> None:
    """One epoch."""
    of_data = data(cache_features=cache)
    task = SegmentationTask(of_data.classes, start=str(source), freeze=freeze)
    if stream:
        of_data._datasets["train"] = ShardSet.__new__(ShardSet)
    given: dict[str, Any] = {"max_epochs": 1, "logger": False, "accelerator": "cpu"} | options
    trainer = build_trainer(task, of_data, default_root_dir=root, **given)
    with quiet():
        trainer.fit(task, datamodule=of_data)


def test_a_feature_too_large_for_the_file_is_refused() -> None:
    form = ViewFormat([[1, 1, 2]], [0], [2, 2], "float32")
    masks = torch.zeros(1, 2, 2)
    packed = form.pack([torch.tensor([[[[6.5e4, torch.inf]]]])], masks)
    assert np.frombuffer(packed, form.record)["map0"].tolist() == [[[[64992.0], [np.inf]]]]
    with pytest.raises(UserError, match=r"the backbone has one of 7e\+04; leave the option out"):
        form.pack([torch.tensor([[[[7e4, 0.0]]]])], masks)


def test_nothing_is_left_of_an_interrupted_computation(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(folder: Path, *_: Any, **__: Any) -> None:
        (folder / "views.bin").parent.mkdir(parents=True)
        raise Stop

    monkeypatch.setattr(feature_cache, "write_views", interrupted)
    with pytest.raises(Stop):
        fitted(source, tmp_path, 1)
    assert not list(tmp_path.rglob("*features*"))


def test_a_full_disk_is_refused_before_anything_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    full = usage._replace(free=1000)
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda _: full)
    with pytest.raises(UserError, match=r"needs 0.00 GiB in .*, but only 0.00 are free; gi"):
        fitted(source, tmp_path, 1)
    assert not list(tmp_path.rglob("*features*"))
