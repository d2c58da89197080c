from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision

from scenewise.classes import CITYSCAPES, VOC
from scenewise.errors import UserError
from scenewise.models.convert import Options, convert
from scenewise.models.preprocessing import Preprocessing
from tests.models.convert import external_others as external
from tests.models.convert.compare import differs, random_image
from tests.models.convert.external import Weights

SIZE = (41, 57)
EVEN = (66, 100)  # whose pooling in the stem rounds


@pytest.mark.parametrize("deeplab", [False, True])
@pytest.mark.parametrize("auxiliary", [False, True])
def test_torchvision(tmp_path: Path, deeplab: bool, auxiliary: bool) -> None:
    network = partial(external.torchvision, classes=21, deeplab=deeplab, auxiliary=auxiliary)
    model, difference = differs(tmp_path / "t.pth", network, Weights(), wrap=dict)
    assert difference < 1e-4
    assert model.recipe["name"] == ("deeplabv3" if deeplab else "fcn")
    assert model.recipe["auxiliary"] is auxiliary
    assert model.align_corners is False
    assert model.classes == VOC
    assert model.preprocessing == Preprocessing()


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_resnet50"])
def test_torchvision_itself(tmp_path: Path, name: str) -> None:
    published = getattr(torchvision.models.segmentation, name)(
        weights=None, weights_backbone=None, aux_loss=True
    ).eval()
    torch.save(published.state_dict(), tmp_path / f"{name}.pth")
    model = convert(tmp_path / f"{name}.pth")
    with torch.no_grad():
        expected, logits = published(random_image())["out"], model(random_image()).logits
    assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("recurrence", [1, 2])
def test_ccnet(tmp_path: Path, recurrence: int) -> None:
    network = partial(external.ccnet, classes=19, recurrence=recurrence)
    options = Options(recurrence=1) if recurrence == 1 else None
    weights = Weights(abn=True)
    model, difference = differs(
        tmp_path / "c.pth", network, weights, options=options, wrap=dict, size=EVEN
    )
    assert difference < 1e-4
    assert weights.tensors["head.conva.1.weight"].min() < 0
    assert model.recipe["backbone"] == "resnet50s"
    assert model.recipe["contract_dilation"] is False
    assert model.recipe["ceil_pool"] is True
    assert model.align_corners
    assert model.classes == CITYSCAPES
    assert model.preprocessing.channel_order == "BGR"
    assert model.preprocessing.value_range == 255
    black = model.normalize(torch.zeros(1, 3, 1, 1, dtype=torch.uint8))
    assert black.flatten().tolist() == pytest.approx([-104.00698793, -116.66876762, -122.67891434])


@pytest.mark.parametrize("auxiliary", [False, True])
def test_semseg(tmp_path: Path, auxiliary: bool) -> None:
    def wrap(tensors: dict[str, torch.Tensor]) -> object:
        return {"epoch": 200, "state_dict": {f"module.{k}": v for k, v in tensors.items()}}

    network = partial(external.semseg, classes=19, auxiliary=auxiliary)
    model, difference = differs(tmp_path / "s.pth", network, Weights(), wrap=wrap, size=SIZE)
    assert difference < 1e-4
    assert model.recipe["auxiliary"] is auxiliary
    assert model.recipe["contract_dilation"] is False
    assert model.align_corners


@pytest.mark.parametrize("name", external.OPENSEG)
def test_openseg(tmp_path: Path, name: str) -> None:
    network = partial(external.openseg, head=external.OPENSEG[name], classes=19)
    weights = Weights(abn=True)

    def wrap(tensors: dict[str, torch.Tensor]) -> object:
        return {"config_dict": {"a": 1}, "state_dict": tensors}

    model, difference = differs(tmp_path / "o.pth", network, weights, wrap=wrap, size=EVEN)
    assert difference < 1e-4
    assert model.recipe["name"] == name
    assert model.recipe["ceil_pool"] is True
    assert model.preprocessing.channel_order == "BGR"


@pytest.mark.parametrize("key", ["head.cca.gamma", "oc_module_pre.0.weight"])
def test_abn_families_refuse_plain_norms(tmp_path: Path, key: str) -> None:
    tensors = {key: torch.ones(1), "head.bottleneck.3.weight": torch.ones(1)}
    tensors |= {"backbone.resinit.conv1.weight": torch.ones(1)}
    torch.save({**tensors, "bn1.num_batches_tracked": torch.tensor(1)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="PyTorch's batch norm"):
        convert(tmp_path / "x.pth")
