"""Further authors' networks, each equal to a rewrite of its code."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scenewise.errors import UserError
from scenewise.models.convert import convert, make_plan
from scenewise.models.preprocessing import Preprocessing
from tests.models.convert import external_more as external
from tests.models.convert.compare import differs, random_image
from tests.models.convert.external import Weights, resnet, upsample
from tests.models.convert.external_others import abn, openseg

SIZE = (41, 57)


def test_emanet(tmp_path: Path) -> None:
    weights = external.Renamed()

    def wrap(_: dict[str, Tensor]) -> object:
        return {"net": weights.stored("extractor."), "step": 30000}

    model, difference = differs(
        tmp_path / "final.pth",
        lambda w, x: external.emanet(w, x, 21),
        weights,
        wrap=wrap,
        size=SIZE,
    )
    assert difference < 1e-4
    assert "extractor.0.3.weight" in weights.stored("extractor.")
    assert (model.recipe["name"], model.recipe["backbone"]) == ("emanet", "resnet50s")
    assert model.recipe["multi_grid"] == [2, 8, 16]


def test_encnet(tmp_path: Path) -> None:
    weights = Weights()
    model, difference = differs(
        tmp_path / "e.pth.tar", lambda w, x: external.encnet(w, x, 150), weights, size=SIZE
    )
    assert difference < 1e-4
    assert model.recipe["name"] == "encnet"
    assert model.recipe["auxiliary"] is True
    lateral = {**weights.tensors, "head.connect.0.0.weight": torch.ones(512, 512, 1, 1)}
    torch.save(lateral, tmp_path / "l.pth")
    with pytest.raises(UserError, match="EncNet with lateral connections"):
        make_plan(tmp_path / "l.pth")


def test_psanet(tmp_path: Path) -> None:
    weights = Weights()
    model, difference = differs(
        tmp_path / "p.pth",
        lambda w, x: external.psanet(w, x, 19),
        weights,
        wrap=lambda tensors: {"state_dict": {f"module.{k}": v for k, v in tensors.items()}},
        size=(33, 49),
    )
    assert difference < 1e-4
    assert model.recipe["size"] == [5, 5]
    assert model.source["settings"]["size"]["decided_by"] == "tensors in the file"
    one = {k: v for k, v in weights.tensors.items() if "_p." not in k}
    torch.save(one, tmp_path / "q.pth")
    with pytest.raises(UserError, match="PSANet without both branches"):
        make_plan(tmp_path / "q.pth")


Features = tuple[Weights, list[Tensor]]


@pytest.fixture(scope="module")
@torch.no_grad()
def ocnet_features() -> Features:
    """The ResNet of OCNet's first release; its four networks share it."""
    weights = Weights(abn=True)
    stages = resnet(
        weights, "", random_image(SIZE), stem="mit", last=(4,), third_first=2, ceil=True
    )
    return weights, stages


@pytest.mark.parametrize(
    ("head", "network", "auxiliary"),
    [
        (external.ocnet_base, "ocnet_base", True),
        (external.ocnet_asp, "ocnet_asp", True),
        (external.ocnet_pyramid, "ocnet_pyramid", True),
        (external.ocnet_baseline, "fcn", False),
    ],
)
@torch.no_grad()
def test_the_first_release_of_ocnet(
    tmp_path: Path,
    ocnet_features: Features,
    head: Callable[[Weights, Tensor, int], Tensor],
    network: str,
    auxiliary: bool,
) -> None:
    backbone, stages = ocnet_features
    weights = Weights(abn=True, seed=1)
    weights.tensors = dict(backbone.tensors)
    images = random_image(SIZE)
    expected = upsample(head(weights, stages[-1], 19), images, True)
    if auxiliary:
        weights.conv("dsn.3", abn(weights, "dsn", stages[2], 512, 3, bias=True), 19, bias=True)
    torch.save(weights.tensors, tmp_path / "o.pth")
    model = convert(tmp_path / "o.pth")
    assert (model(images).logits - expected).abs().max() < 1e-4 * expected.abs().max()
    assert model.recipe["name"] == network
    assert model.recipe["auxiliary"] is auxiliary
    assumed = {"ocnet_base": ("pool", 1), "ocnet_pyramid": ("sizes", [1, 2, 3, 6])}
    for setting, value in [assumed[network]] if network in assumed else []:
        decided = {"value": value, "decided_by": "released default"}
        assert model.source["settings"][setting] == decided
    mean = (102.9801, 115.9465, 122.7717)
    assert model.preprocessing == Preprocessing(mean, (1.0, 1.0, 1.0), "RGB", 255.0)


def test_asp_ocr(tmp_path: Path) -> None:
    model, difference = differs(
        tmp_path / "o.pth",
        lambda w, x: openseg(w, x, 19, head=external.asp_ocr),
        Weights(abn=True),
        size=SIZE,
    )
    assert difference < 1e-4
    assert model.recipe["name"] == "ocr_asp"
    assert model.preprocessing.channel_order == "BGR"
