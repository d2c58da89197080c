from functools import partial
from pathlib import Path

import pytest
import torch

from scenewise import load_model
from scenewise.classes import CITYSCAPES
from scenewise.models.convert import Options
from scenewise.models.preprocessing import Preprocessing
from tests.models.convert.compare import differs, random_image
from tests.models.convert.external import Weights
from tests.models.convert.external_danet import danet, dranet, fcn

Tensors = dict[str, torch.Tensor]


def test_the_released_layout(tmp_path: Path) -> None:
    """DANet101.pth.tar: plain stem, ImageNet classifier, multi-grid, 19 classes."""

    def wrap(tensors: Tensors) -> object:
        fc = {"pretrained.fc.weight": torch.ones(1000, 2048), "pretrained.fc.bias": torch.ones(1)}
        return {"epoch": 240, "state_dict": tensors | fc, "optimizer": {}, "best_pred": 0.8}

    network = partial(danet, classes=19, depth=101)
    weights = Weights(tracked=False)
    model, difference = differs(tmp_path / "DANet101.pth.tar", network, weights, wrap=wrap)
    assert difference < 1e-4
    assert model.recipe["backbone"] == "resnet101"
    assert model.recipe["multi_grid"] == [4, 8, 16]
    assert model.align_corners
    assert model.preprocessing == Preprocessing()
    assert model.classes == CITYSCAPES
    assert model.source["family"] == "danet"
    assert len(model.source["sha256"]) == 64


def test_deep_stem_without_multi_grid(tmp_path: Path) -> None:
    network = partial(danet, classes=5, stem="encoding", last=(2, 4, 4))
    options = Options(multi_grid=())
    model, difference = differs(tmp_path / "d.pth", network, Weights(), options=options)
    assert difference < 1e-4
    assert model.recipe["backbone"] == "resnet50s"
    assert model.source["options"] == {"multi_grid": []}
    assert model.classes.names[0] == "class_0"


def test_the_multi_grid_matters(tmp_path: Path) -> None:
    network = partial(danet, classes=5)
    options = Options(multi_grid=())
    _, difference = differs(tmp_path / "d.pth", network, Weights(), options=options)
    assert difference > 1e-2


@pytest.mark.parametrize("network", [dranet, fcn])
def test_relatives(tmp_path: Path, network: object) -> None:
    model, difference = differs(
        tmp_path / "d.pth",
        partial(network, classes=5),  # type: ignore[arg-type]
        Weights(),
    )
    assert difference < 1e-4
    assert model.recipe["multi_grid"] == (None if network is fcn else [4, 8, 16])
    assert model.recipe["auxiliary"] is (network is dranet)


def test_the_model_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``load_model`` takes the file, and a saved folder still knows where it is from."""
    monkeypatch.chdir(tmp_path)
    weights = Weights()
    with torch.no_grad():
        fcn(weights, random_image(), 3)
    torch.save({"state_dict": {f"module.{k}": v for k, v in weights.tensors.items()}}, "f.pth")
    model = load_model("f.pth")
    model.save_pretrained(tmp_path / "m")
    again = load_model(tmp_path / "m")
    assert again.source == model.source
    assert again.source["file"] == "f.pth"
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True)
    )
