"""DeepLabV3+'s decoder: against its formula, in every network, and what it refuses."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from scenewise import create_model, load_model
from scenewise.errors import UserError
from scenewise.models.heads.fcn import FCNHead
from scenewise.models.heads.low_level import LowLevelHead
from scenewise.models.segmenter import Segmenter
from tests.models.networks import ON_TINY


def network(name: str, **options: Any) -> Segmenter:
    settings: dict[str, Any] = {"psanet": {"size": (9, 9)}}.get(name, {})
    return create_model(name, num_classes=5, backbone="tiny", **options, **settings)


@pytest.mark.parametrize("corners", [False, True])
def test_equals_the_formula(corners: bool) -> None:
    """Classify what two separable convolutions make of [upsampled context, few early channels]."""
    torch.manual_seed(0)
    plain = FCNHead([6, 10], 4, width=8).double().eval()
    context = FCNHead([6, 10], 4, width=8).double().eval()
    context.load_state_dict(plain.state_dict())
    head = LowLevelHead(context, 6, 3, align_corners=corners).double().eval()
    early = torch.randn(2, 6, 11, 13, dtype=torch.float64)
    last = torch.randn(2, 10, 3, 5, dtype=torch.float64)
    up = F.interpolate(plain.reduce(last), (11, 13), mode="bilinear", align_corners=corners)
    y = torch.cat([up, head.reduce[1](head.reduce[0](early)).relu()], 1)  # (2, 8 + 3, 11, 13)
    for block in head.fuse:
        for conv, norm, _ in block:
            groups = y.shape[1] if conv.weight.shape[1] == 1 else 1
            y = F.conv2d(y, conv.weight, padding=conv.weight.shape[-1] // 2, groups=groups)
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            y = (y - norm.running_mean[:, None, None]) * scale[:, None, None]
            y = (y + norm.bias[:, None, None]).relu()
    expected = F.conv2d(y, plain.classify[1].weight, plain.classify[1].bias)
    torch.testing.assert_close(head([early, last]).logits, expected)


@pytest.mark.parametrize("name", ON_TINY)
def test_every_network_takes_it(name: str) -> None:
    plain, model = network(name, low_level=0), network(name, low_level=12).train()
    images = torch.randn(2, 3, 40, 56)
    low, _ = model.low_res(images)
    assert low.logits.shape[2:] == (10, 14)  # stride 4
    assert model.loss_weights == plain.loss_weights
    assert set(low.auxiliary) | set(low.penalties) == set(model.loss_weights)
    assert model.recipe is not None
    assert model.recipe["low_level"] == 12
    own = {key.removeprefix("head.context.") for key in model.state_dict()}
    assert {k.removeprefix("head.") for k in plain.state_dict() if ".classify." not in k} <= own


@pytest.mark.parametrize("name", ["danet_plus", "ccnet_plus", "fcn_plus", "deeplabv3plus"])
def test_named_networks_are_saved_and_loaded(name: str, tmp_path: Any) -> None:
    model = network(name).eval()
    model.save_pretrained(tmp_path)
    assert isinstance(model.head, LowLevelHead)
    assert model.head.reduce[0].out_channels == 48
    images = torch.randn(1, 3, 37, 53)
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path)(images).logits, model(images).logits)


def test_without_the_decoder_a_plus_network_is_the_plain_one() -> None:
    assert network("danet_plus", low_level=0).state_dict().keys() == (
        network("danet").state_dict().keys()
    )


@pytest.mark.parametrize(
    ("backbone", "low_level", "message"),
    [
        ("vit_tiny_patch16_224", 48, "feature map at stride 4, but the backbone's are at 16"),
        ("tiny", -1, "low_level is -1"),
    ],
)
def test_refused(backbone: str, low_level: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_model("fcn", num_classes=2, backbone=backbone, pretrained=False, low_level=low_level)
