"""The network for inference has the same logits as the network."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scenewise.models import create_model
from scenewise.models.optimize.fuse import _fold_batch_norms, _MergedDANetHead, for_inference
from scenewise.models.optimize.winograd import Winograd
from scenewise.models.segmenter import Segmenter
from tests.models.networks import ON_TINY


def trained(network: str, backbone: str, **options: object) -> Segmenter:
    """Random weights, and batch norms and gammas as after a training."""
    torch.manual_seed(0)
    model = create_model(network, num_classes=5, backbone=backbone, pretrained=False, **options)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.2, 0.2)
        for name, parameter in model.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.5)
    return model.eval()


@pytest.mark.parametrize("network", ON_TINY)
def test_every_network_in_float64(network: str) -> None:
    model = trained(network, "tiny").double()
    image = torch.randn(2, 3, 41, 59, dtype=torch.float64)
    with torch.no_grad():
        actual, expected = for_inference(model)(image), model(image)
    torch.testing.assert_close(actual.logits, expected.logits, rtol=1e-9, atol=1e-10)
    assert actual.auxiliary == {}


@pytest.mark.parametrize(
    "backbone", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"]
)
def test_backbones(backbone: str) -> None:
    model = trained("danet", backbone, output_stride=16 if "resnet" in backbone else 32)
    image = torch.randn(1, 3, 65, 97)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        actual, expected = for_inference(model)(image).logits, model(image).logits
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), "the model itself is unchanged"


def test_what_is_done_to_a_wide_danet() -> None:
    model = trained("danet", "resnet18")
    fast = for_inference(model)
    assert isinstance(fast.head, _MergedDANetHead)
    assert not [m for m in fast.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m.dilation for m in fast.backbone.modules() if isinstance(m, Winograd)]
    image = torch.randn(1, 3, 97, 129)
    with torch.no_grad():
        actual, expected = fast(image).logits, model(image).logits
    assert (actual - expected).abs().max() < 1e-4 * expected.abs().max()
    assert torch.equal(actual.argmax(1), expected.argmax(1))


class Twice(nn.Module):
    """A convolution whose output is used twice, so that its norm cannot be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        y = self.convolution(x)
        return [self.norm(y) + y]


def test_an_unusual_network_keeps_its_norms() -> None:
    usual = trained("fcn", "tiny")
    backbone = Twice()
    nn.init.uniform_(backbone.norm.running_mean, 1, 2)
    head = create_model("fcn", num_classes=5, backbone="tiny").head
    head.__init__([8], 5)  # type: ignore[misc]
    model = Segmenter(backbone, head, classes=usual.classes).eval()
    image = torch.randn(1, 3, 33, 35)
    with torch.no_grad():
        actual, expected = for_inference(model)(image).logits, model(image).logits
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_norms_that_are_shared_stay() -> None:
    norm, convolution = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
    model = nn.Sequential(convolution, norm, convolution, norm).eval()
    _fold_batch_norms(model, torch.randn(1, 4, 5, 5))
    assert model[1] is norm


@pytest.mark.parametrize("dilation", [1, 2, 3, 16])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 8), (13, 7), (17, 33), (64, 128)])
def test_winograd_equals_the_convolution(dilation: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(6, 5, 3, padding=dilation, dilation=dilation).double()
    x = torch.randn(2, 6, height, width, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(Winograd(convolution)(x), convolution(x), rtol=1e-10, atol=1e-10)


def test_winograd_by_hand() -> None:
    convolution = nn.Conv2d(1, 1, 3, padding=1, bias=False).double()
    nn.init.ones_(convolution.weight)
    x = torch.ones(1, 1, 3, 5, dtype=torch.float64)
    expected = torch.tensor([[4, 6, 6, 6, 4], [6, 9, 9, 9, 6], [4, 6, 6, 6, 4]]).double()
    with torch.no_grad():
        torch.testing.assert_close(Winograd(convolution)(x)[0, 0], expected)


def test_winograd_in_float32_is_close() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(256, 256, 3, padding=1, bias=False)
    x = torch.randn(1, 256, 24, 40).relu()
    exact = F.conv2d(x.double(), convolution.weight.double(), padding=1)
    with torch.no_grad():
        error = (Winograd(convolution)(x) - exact).abs().max() / exact.abs().max()
    assert error < 2e-5


@pytest.mark.parametrize(
    "options",
    [{"stride": 2}, {"groups": 2}, {"padding": 0}, {"padding_mode": "reflect"}, {"dilation": 2}],
)
def test_winograd_refuses_what_it_cannot_compute(options: dict[str, object]) -> None:
    assert Winograd.fits(nn.Conv2d(4, 4, 3, padding=1))
    assert not Winograd.fits(nn.Conv2d(4, 4, 3, **{"padding": 1, **options}))


def test_a_resnet_frees_its_largest_feature_map() -> None:
    """The stem's output is half of a ResNet-18's memory for an image; nothing needs it later."""
    model = create_model("fcn", num_classes=2, backbone="resnet18", pretrained=False).eval()
    alive: list[int] = []
    stem: list[weakref.ref[torch.Tensor]] = []
    body = model.backbone.net
    body["act1"].register_forward_hook(lambda m, i, y: stem.append(weakref.ref(y)))
    body["layer2"].register_forward_hook(lambda m, i, y: alive.append(stem[0]() is not None))
    with torch.no_grad():
        model(torch.rand(1, 3, 64, 64))
    assert alive == [0]
