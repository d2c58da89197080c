"""Gradient maps: against autograd written here, and the laws that they obey."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenewise import Predictor, create_model
from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.models import Preprocessing, Segmenter
from scenewise.models.heads import HeadOutput
from tests.toy_model import random_danet

pytest.importorskip("captum", reason="the extra gradient is not installed")

from scenewise.visualize import gradient_figure, gradient_map
from scenewise.visualize.gradient_figure import reach

CLASSES = Classes(("road", "sky", "car"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)))
SIZE = (41, 59)


class Convolutions(nn.Module):
    """Two 3x3 convolutions, the first with stride 2: each cell sees 7 x 7 pixels."""

    channels = (5,)

    def __init__(self) -> None:
        super().__init__()
        first, second = nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.Conv2d(5, 5, 3, padding=1)
        self.layers = nn.Sequential(first, nn.BatchNorm2d(5), nn.Softplus(), second)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.layers(images)]


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(5, 3, 1)

    def forward(self, features: list[Tensor]) -> HeadOutput:
        return HeadOutput(self.conv(features[-1]), {}, {})


def fcn(*, align_corners: bool = False) -> Segmenter:
    torch.manual_seed(3)
    preprocessing = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    model = Segmenter(
        Convolutions(),
        Head(),
        classes=CLASSES,
        preprocessing=preprocessing,
        align_corners=align_corners,
    )
    model.backbone.layers[1].running_mean.normal_()
    return model.double().eval()


def logits(model: Segmenter, normalised: Tensor) -> Tensor:
    """(1, K, H, W), by the steps of the network one by one."""
    features = model.backbone.layers(normalised)
    scores = model.head.conv(features)
    corners = model.align_corners
    return F.interpolate(scores, size=SIZE, mode="bilinear", align_corners=corners)


def normalise(image: Tensor) -> Tensor:
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
    return ((image - mean.double()[:, None, None]) / std.double()[:, None, None])[None]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("at", [(0, 58), (17, 30)])
def test_saliency_is_the_gradient_of_one_logit(at: tuple[int, int], align_corners: bool) -> None:
    model, image = fcn(align_corners=align_corners), torch.rand(3, *SIZE).double()
    x = normalise(image).requires_grad_()
    everywhere = logits(model, x)
    everywhere[0, 2, at[0], at[1]].backward()
    found = gradient_map(model, image, at, 2)
    torch.testing.assert_close(found, x.grad[0].abs().sum(0), rtol=1e-6, atol=1e-9)
    predicted = int(everywhere[0, :, at[0], at[1]].argmax())
    torch.testing.assert_close(
        gradient_map(model, image, at), gradient_map(model, image, at, predicted)
    )


def test_integrated_gradients_sum_to_the_change_of_the_logit() -> None:
    model, image, at = fcn(), torch.rand(3, *SIZE).double(), (17, 30)
    x = normalise(image)
    change = (logits(model, x) - logits(model, 0 * x))[0, 1, at[0], at[1]]
    found = gradient_map(model, image, at, 1, kind="integrated")
    assert found.shape == SIZE
    torch.testing.assert_close(found.sum(), change.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["saliency", "integrated"])
def test_outside_the_receptive_field_the_gradient_is_exactly_0(kind: str) -> None:
    found = gradient_map(fcn(), torch.rand(3, *SIZE), (21, 30), 0, kind=kind)
    # 41 x 59 pixels are 21 x 30 cells: row 21 is upsampled from rows 10 and 11 of the cells,
    # column 30 from columns 15 and 16; cell c sees pixels 2 c - 3 to 2 c + 3
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[17:26, 27:36] = True
    assert (found[~inside] == 0).all()
    assert (found[inside] != 0).all()


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_was(training: bool) -> None:
    model = random_danet(CLASSES).train(training)
    model.head.eval()
    for index, weight in enumerate(model.parameters()):
        weight.grad = torch.full_like(weight, 0.5) if index % 2 else None
        weight.requires_grad_(index % 3 != 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    flags = [weight.requires_grad for weight in model.parameters()]
    image = torch.rand(3, *SIZE)
    with torch.inference_mode():  # as a server may call it
        found = gradient_map(model, image, (3, 58))
    assert (found > 0).any()
    assert found.requires_grad is False
    assert [module.training for module in model.modules()] == modes
    assert [weight.requires_grad for weight in model.parameters()] == flags
    for index, weight in enumerate(model.parameters()):
        kept = weight.grad is None or bool((weight.grad == 0.5).all())
        assert kept
        assert (weight.grad is not None) == bool(index % 2)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not image.requires_grad
    assert torch.equal(found, gradient_map(model.eval(), image, (3, 58)))  # evaluated in eval mode


def test_position_attention_moves_scores_from_anywhere() -> None:
    danet = random_danet(CLASSES)
    assert (gradient_map(danet, torch.rand(3, *SIZE), (3, 58))[30:, :20] > 0).any()


def test_the_figure_has_the_prediction_at_each_pixel(tmp_path) -> None:
    model, image, at = fcn(), torch.rand(3, *SIZE), [(3, 58), (40, 0)]
    out = tmp_path / "a.svg"
    shown = gradient_figure(model, image, at, out)
    prediction, scores = Predictor(model).with_scores(image, at)
    assert torch.equal(shown.prediction.labels, prediction.labels)
    for pixel, of_classes in zip(shown.pixels, scores, strict=True):
        assert (pixel.label, pixel.score) == (int(of_classes.argmax()), float(of_classes.max()))
        assert torch.equal(pixel.weights, gradient_map(model, image, pixel.at, pixel.label))
        assert f"at pixel {pixel.at}" in out.read_text()
        assert reach(pixel.weights, pixel.at, 1.0) <= 7
    assert "gradient by class" in out.read_text()
    assert "times the mean gradient" in out.read_text()
    assert "attention" not in out.read_text()


def test_a_score_that_nothing_moves_is_drawn(tmp_path) -> None:
    model = fcn()
    nn.init.zeros_(model.head.conv.weight)
    shown = gradient_figure(model, torch.rand(3, *SIZE), [(3, 5)], tmp_path / "a.png")
    assert "gradient is 0" in shown.pixels[0].sentence(CLASSES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": (41, 0)}, "outside the image of 41 rows and 59 columns"),
        ({"class_id": 3}, "classes are 0 to 2, not 3"),
        ({"class_id": -1}, "classes are 0 to 2, not -1"),
        ({"kind": "salience"}, "unknown kind of gradient 'salience'"),
        ({"model": nn.Conv2d(3, 2, 1)}, "takes a Segmenter"),
    ],
)
def test_wrong_arguments_are_one_sentence(options: dict[str, object], message: str) -> None:
    call = {"model": fcn(), "image": torch.rand(3, *SIZE), "at": (3, 5)} | options
    with pytest.raises(UserError, match=message):
        gradient_map(**call)


def test_a_backbone_that_pads_its_input() -> None:
    """Its logits are upsampled to the padded size: the map is of the image alone."""
    model = create_model("fcn", classes=CLASSES, backbone="tiny").eval()
    model.backbone.multiple = 16
    image, at = torch.rand(3, *SIZE), (40, 58)
    x = model.normalize(image[None]).detach().requires_grad_()
    model(x).logits[0, 1, 40, 58].backward()
    expected = x.grad[0].abs().sum(0)
    torch.testing.assert_close(gradient_map(model, image, at, 1), expected, rtol=1e-4, atol=1e-7)
