import pytest
import torch

from scenewise import Segmenter, create_model
from scenewise.classes import Classes
from scenewise.errors import UserError
from tests.models.networks import ON_TINY
from tests.models.test_cost import step


def dilations(model: Segmenter, stage: str) -> list[int]:
    return [block.conv2.dilation[0] for block in getattr(model.backbone.net, stage)]


@pytest.mark.parametrize("name", ON_TINY)
def test_logits_have_the_size_of_the_images(name: str) -> None:
    model = create_model(name, num_classes=5, backbone="tiny", auxiliary=True)
    images = torch.randn(2, 3, 67, 101)
    trained = model.train()(images)
    assert trained.logits.shape == (2, 5, 67, 101)
    assert all(s.shape in ((2, 5, 67, 101), (2, 5)) for s in trained.auxiliary.values())
    assert "auxiliary" in trained.auxiliary
    assert set(trained.auxiliary) | set(trained.penalties) == set(model.loss_weights)
    tested = model.eval()(images)
    assert tested.logits.shape == (2, 5, 67, 101)
    assert tested.auxiliary == {}


@pytest.mark.parametrize("name", ON_TINY)
def test_an_empty_batch_has_no_logits_and_no_loss(name: str) -> None:
    model = create_model(name, num_classes=5, backbone="tiny", auxiliary=True).train()
    images = torch.randn(0, 3, 32, 48)
    assert step(model, images).isfinite()
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)
    assert model.eval()(images).logits.shape == (0, 5, 32, 48)


@pytest.mark.parametrize("name", ON_TINY)
def test_every_parameter_learns(name: str) -> None:
    """All parameters get a gradient once the residual scales are not 0."""
    model = create_model(name, num_classes=3, backbone="tiny", auxiliary=True).train()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("gamma"):
            parameter.data.fill_(0.5)
    out = model(torch.randn(2, 3, 32, 48))
    total = out.logits.square().mean() + sum(s.square().mean() for s in out.auxiliary.values())
    (total + sum(out.penalties.values())).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_danet_losses_have_weight_1_and_auxiliary_head_04() -> None:
    model = create_model("danet", num_classes=2, backbone="tiny", auxiliary=True)
    assert model.loss_weights == {"position": 1.0, "channel": 1.0, "auxiliary": 0.4}
    assert create_model("danet", num_classes=2, backbone="tiny").auxiliary_head is None


def test_gamma_starts_at_0() -> None:
    model = create_model("danet", num_classes=2, backbone="tiny")
    gammas = {n: p.item() for n, p in model.named_parameters() if n.endswith("gamma")}
    assert gammas == {"head.position.1.gamma": 0.0, "head.channel.1.gamma": 0.0}


@pytest.mark.parametrize(
    ("stride", "grid", "third", "fourth"),
    [
        (8, None, [1, 2, 2, 2, 2, 2], [2, 4, 4]),
        (8, (4, 8, 16), [1, 2, 2, 2, 2, 2], [4, 8, 16]),
        (16, None, [1] * 6, [1, 2, 2]),
        (16, (2, 4, 8), [1] * 6, [2, 4, 8]),
        (8, (4, 8), [1, 2, 2, 2, 2, 2], [4, 8, 4]),
    ],
)
def test_dilations(
    stride: int, grid: tuple[int, ...] | None, third: list[int], fourth: list[int]
) -> None:
    model = create_model(
        "fcn",
        num_classes=2,
        backbone="resnet50",
        pretrained=False,
        output_stride=stride,
        multi_grid=grid,
    )
    assert dilations(model, "layer3") == third
    assert dilations(model, "layer4") == fourth
    features = model.eval().backbone(torch.randn(1, 3, 65, 97))
    assert features[-1].shape[2:] == (-(-65 // stride), -(-97 // stride))


@pytest.mark.parametrize(
    ("backbone", "stride"),
    [
        ("resnet18", 8),
        ("mobilenetv2_100", 8),
        ("convnext_atto", 8),
        ("vit_tiny_patch16_224", 16),
        ("swin_tiny_patch4_window7_224", 32),
    ],
)
def test_backbones_of_every_kind(backbone: str, stride: int) -> None:
    model = create_model(
        "danet", num_classes=3, backbone=backbone, pretrained=False, width=64
    ).eval()
    seen = {}
    model.backbone.register_forward_hook(lambda _m, _i, features: seen.update(features=features))
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 93)).logits.shape == (1, 3, 64, 93)
    assert [m.shape[1] for m in seen["features"]] == list(model.backbone.channels)
    assert seen["features"][-1].shape[2:] == (-(-64 // stride), -(-93 // stride))


def test_transformers_ignore_the_padding_position() -> None:
    """The logits of an image that needs padding are those of the padded image, cropped."""
    model = create_model(
        "fcn", num_classes=2, backbone="vit_tiny_patch16_224", pretrained=False
    ).eval()
    image = torch.randn(1, 3, 30, 45)
    padded = torch.nn.functional.pad(image, (0, 3, 0, 2))
    with torch.no_grad():
        assert torch.equal(model(image).logits, model(padded).logits[..., :30, :45])


def test_normalisation_by_hand() -> None:
    model = create_model("fcn", num_classes=2, backbone="tiny")
    image = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]
    assert model.normalize(image).flatten().tolist() == pytest.approx(expected)
    assert torch.allclose(model.normalize(image / 255), model.normalize(image))


def test_parameter_groups_split_backbone_and_head() -> None:
    model = create_model("danet", num_classes=2, backbone="tiny", auxiliary=True)
    backbone, head = model.parameter_groups(0.01, head_multiplier=10)
    assert (backbone["lr"], head["lr"]) == (0.01, pytest.approx(0.1))
    assert len(backbone["params"]) == len(list(model.backbone.parameters()))
    assert len(backbone["params"]) + len(head["params"]) == len(list(model.parameters()))


def test_classes_travel() -> None:
    classes = Classes(("road", "sky"), ((1, 2, 3), (4, 5, 6)), ignore_index=7)
    assert create_model("fcn", classes=classes, backbone="tiny").classes == classes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "danett"}, "unknown network 'danett'; did you mean 'danet'. Choose one of ann"),
        ({"num_classes": 0}, "needs classes"),
        ({"num_classes": 300}, "1 to 256 classes"),
        ({"backbone": "resnet999"}, "unknown backbone 'resnet999'"),
        ({"backbone": "mobilenetv2_100", "multi_grid": (1, 2)}, "needs a ResNet"),
        ({"backbone": "tiny", "multi_grid": (1, 2)}, "tiny backbone has no multi_grid"),
        ({"backbone": "resnet18c", "pretrained": True}, "timm has no weights of 'resnet18c'"),
        ({"name": "fcn", "dilation": 6}, "dilation 6 needs a positive number and variant 'mmseg'"),
        ({"widht": 3}, "has no option 'widht'; it has width"),
        ({"width": 4}, "cannot be built with these options: 4 channels cannot be reduced by 8"),
        ({"backbone_weights": "nowhere.pth"}, "no such file: 'nowhere.pth'"),
    ],
)
def test_bad_arguments_are_reported(options: dict[str, object], message: str) -> None:
    arguments = {"name": "danet", "num_classes": 2, "backbone": "tiny", "pretrained": False}
    with pytest.raises(UserError, match=message):
        create_model(**{**arguments, **options})  # type: ignore[arg-type]


def test_both_counts_must_agree() -> None:
    with pytest.raises(UserError, match="num_classes is 3 but 2 classes"):
        create_model("fcn", num_classes=3, classes=Classes.numbered(2), backbone="tiny")


def test_an_image_of_wrong_shape_is_refused() -> None:
    with pytest.raises(UserError, match=r"shape \(B, 3, H, W\), not \(3, 4, 5\)"):
        create_model("fcn", num_classes=2, backbone="tiny")(torch.zeros(3, 4, 5))
