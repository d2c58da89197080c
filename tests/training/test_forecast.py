"""The forecast: how much a training does, what it costs, and where validation needs windows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from scenewise import create_model
from scenewise.data import SegmentationData
from scenewise.inference.predictor import Predictor
from scenewise.training import forecast as forecast_module
from scenewise.training.forecast import Forecaster, Plan, image_sizes, plan_of
from scenewise.training.preflight import memory_warning
from scenewise.training.task import SegmentationTask
from tests.data.trees import write_tree

CPU = torch.device("cpu")


def scenes(**options: Any) -> SegmentationData:
    given = {"scenes_size": (32, 96), "batch_size": 2, "scenes_val": 10} | options
    data = SegmentationData(format="scenes", num_workers=0, **given)
    data.setup("fit")
    return data


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    model = create_model("danet", num_classes=17, backbone="tiny")
    return Forecaster(model, scenes(), CPU, Plan(100, 4, 10, False))


@pytest.mark.parametrize(
    ("options", "batches", "validations"),
    [
        ({"max_epochs": 12}, 12 * 50, 12),
        ({"max_epochs": 12, "check_val_every_n_epoch": 3}, 12 * 50, 4),
        ({"max_epochs": 12, "limit_train_batches": 7}, 12 * 7, 12),
        ({"max_epochs": 12, "limit_train_batches": 0.5}, 12 * 25, 12),
        ({"max_epochs": 4, "val_check_interval": 0.25}, 4 * 50, 16),
        ({"max_steps": 120, "accumulate_grad_batches": 3}, 360, 360 / 50),
        ({"max_steps": 30, "max_epochs": 9}, 30, 30 / 50),
        (
            {"max_steps": 90, "val_check_interval": 9, "check_val_every_n_epoch": None},
            90,
            10,
        ),
    ],
)
def test_batches_are_epochs_times_batches(
    options: dict[str, Any], batches: int, validations: float
) -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **options)
    plan = plan_of(trainer, scenes(), 50, mixed=False)
    assert plan.batches == batches
    assert plan.validations == pytest.approx(validations)
    assert plan.images == 10


def test_time_is_that_of_all_batches_and_validations(
    forecaster: Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast_module, "sample_seconds", lambda dataset: 0.5)
    forecaster.seconds_per_flop = 1e-9
    forecast = forecaster.forecast()
    batch = forecaster.step.flops * 1e-9 + forecast_module._BATCH_SECONDS + 2 * 0.5
    assert forecast.training == pytest.approx(100 * batch)
    flops = forecaster._scoring(None)[0]
    image = flops * 1e-9 + 17 * 32 * 96 * forecast_module._SCORE_SECONDS + 0.5
    each = 10 * image + 0.2  # with the checkpoints; the first figures take 3 s
    assert forecast.validation == pytest.approx(4 * each + 3)
    assert "validation at 32 x 96" in forecast.sentence()
    total = forecast.training + forecast.validation
    assert f"({100 * forecast.validation / total:.0f} % of it validation)" in forecast.sentence()


def test_memory_has_workers_and_the_largest_validation_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = create_model("fcn", num_classes=17, backbone="tiny")
    monkeypatch.setattr(forecast_module, "image_sizes", lambda dataset: [(64, 64), (3000, 2000)])
    monkeypatch.setattr(forecast_module, "sample_seconds", lambda dataset: 0.0)
    large = Forecaster(model, scenes(), CPU, Plan(1, 1, 1, False))
    forecast = large.forecast()
    assert forecast.largest == (3000, 2000)
    assert forecast.score_bytes > 4 * 17 * 3000 * 2000  # the scores alone
    assert forecast.new_bytes == forecast.score_bytes + forecast.loader_bytes
    assert large._loader_bytes(3) > large._loader_bytes(0) + 3 * forecast_module._WORKER_BYTES
    assert memory_warning(forecast, None) is None
    assert memory_warning(forecast, 2**50) is None
    assert "only 0.0 GiB are free" in (memory_warning(forecast, 1000) or "")


def test_windows_where_whole_images_would_take_more_than_the_training(
    forecaster: Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert forecaster.choose_window(None) is None  # not larger than the crop
    monkeypatch.setattr(forecaster, "largest", (1024, 1024))
    monkeypatch.setattr(forecaster, "mean_pixels", 1024.0 * 1024)
    monkeypatch.setattr(forecaster, "_scores", {})
    assert forecaster.choose_window(None) == 96  # 16,384 positions attend to each other
    monkeypatch.setattr(forecaster, "plan", Plan(10**9, 1, 1, False))
    assert forecaster.choose_window(None) is None  # little against so long a training
    assert forecaster.choose_window(10_000_000) == 96  # bytes free
    whole, cut = forecaster._scoring(None), forecaster._scoring(96)
    assert (cut[0] < whole[0], cut[1] < whole[1]) == (True, True)


def test_scores_of_windows_are_those_of_the_predictor() -> None:
    data = scenes(scenes_val=2)
    task = SegmentationTask(data.classes, network="fcn", backbone="tiny", eval_window=48)
    image, mask = (part[None] for part in data.dataset("val").read(0))
    task._count({"image": image, "mask": mask.long()}, "val")
    assert task.labels is not None
    assert torch.equal(task.labels[0], Predictor(task.model, window=48)(image[0]).labels)


def test_sizes_come_from_the_headers(tmp_path: Path) -> None:
    data = SegmentationData(root=str(write_tree(tmp_path)))
    dataset = data.dataset("val")
    expected = [tuple(dataset.read(i)[1].shape) for i in range(len(dataset))]
    assert list(image_sizes(dataset)) == expected
