from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise import create_model
from scenewise.apps.fit import preflight
from scenewise.apps.fit.preflight import check_labels, forecast, free_bytes
from scenewise.data import SegmentationData
from scenewise.errors import UserError
from scenewise.models.cost import product_rate
from tests.data.trees import write_tree

CPU = torch.device("cpu")


def scenes() -> SegmentationData:
    data = SegmentationData(format="scenes", scenes_size=(32, 96), batch_size=2)
    data.setup("fit")
    return data


def message(model_name: str = "danet", **options: int) -> str:
    model = create_model(model_name, num_classes=17, backbone="tiny")
    return forecast(model, scenes(), CPU, options.get("steps", 1), mixed=False)


def test_forecast_warns_when_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "WARNING" not in message()
    monkeypatch.setattr(preflight, "free_bytes", lambda _: 1000)
    assert "WARNING: only 0.0 GiB are free: take a smaller --data.crop_size" in message()
    monkeypatch.setattr(preflight, "free_bytes", lambda _: None)
    assert "WARNING" not in message()


def test_forecast_of_time_grows_with_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "product_rate", lambda _: 1e9)
    short, long = message(steps=1000), message(steps=100_000)
    assert "minute" in short
    assert "hours" in long


def test_rates_and_free_memory_are_plausible() -> None:
    assert 1e8 < product_rate(CPU, size=128) < 1e15
    free = free_bytes(CPU)
    assert free is None or 1e7 < free < 1e15


def test_labels_of_a_folder_are_looked_at(tmp_path: Path) -> None:
    write_tree(tmp_path)
    assert check_labels(SegmentationData(root=str(tmp_path))) == []
    mask = next((tmp_path / "masks" / "val").iterdir())
    wrong = np.array(Image.open(mask))
    wrong[0, 0] = 77
    Image.fromarray(wrong).save(mask)
    with pytest.raises(UserError, match="77"):
        check_labels(SegmentationData(root=str(tmp_path)))


def test_scenes_need_no_look() -> None:
    assert check_labels(scenes()) == []
