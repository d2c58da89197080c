"""The networks as published: parameters, auxiliary heads, losses, dilations, initialisation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scenewise import Segmenter, create_model, load_model
from scenewise.errors import UserError
from scenewise.models.zoo import NETWORKS
from tests.models.networks import ON_TINY


def build(name: str, **options: Any) -> Segmenter:
    """A network on the meta device: 19 classes, ResNet-50 with a 32/32/64 stem."""
    options = {"backbone": "resnet50c", "num_classes": 19, **options}
    with torch.device("meta"):
        return create_model(name, pretrained=False, **options)


def tiny(name: str, **options: Any) -> Segmenter:
    return create_model(name, num_classes=3, backbone="tiny", **options)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ann", 46_228_614),
        ("ccnet", 49_826_055),
        ("danet", 49_846_574),
        ("deeplabv3", 68_113_030),
        ("dnl", 50_024_327),
        ("emanet", 42_349_958),
        ("encnet", 35_891_961),
        ("fcn", 49_497_734),
        ("gcnet", 49_630_215),
        ("isa", 37_707_398),
        ("nonlocal", 50_023_814),
        ("ocr", 36_524_166),
        ("pspnet", 48_975_494),
    ],
)
def test_parameters_of_mmsegmentation(name: str, parameters: int) -> None:
    """With the auxiliary heads that its configurations train."""
    assert count(build(name, variant="mmseg")) == parameters


@pytest.mark.parametrize(("name", "parameters"), [("deeplabv3", 42_004_074), ("fcn", 35_322_218)])
def test_parameters_of_torchvision(name: str, parameters: int) -> None:
    model = build(name, variant="torchvision", backbone="resnet50", num_classes=21)
    assert count(model) == parameters


@pytest.mark.parametrize(
    ("name", "variant", "parameters"),
    [
        ("ccnet", "official", 71_287_911),
        ("fcn", "ocnet", 52_072_403),
        ("ocnet_asp", "official", 62_542_182),
        ("ocnet_base", "official", 57_722_854),
        ("ocnet_pyramid", "official", 62_584_294),
    ],
)
def test_parameters_of_the_deep_stem(name: str, variant: str, parameters: int) -> None:
    """ResNet-101 with a 64/64/128 stem, and the auxiliary head that the code trains."""
    assert count(build(name, variant=variant, backbone="resnet101s")) == parameters


def test_parameters_of_the_danet_head() -> None:
    assert count(build("danet", backbone="resnet50").head) == 23_954_619


def dilations(model: Segmenter) -> list[list[int]]:
    stages = (model.backbone.net.layer3, model.backbone.net.layer4)
    return [[block.conv2.dilation[0] for block in stage] for stage in stages]


CONTRACTED = [[1, 2, 2, 2, 2, 2], [2, 4, 4]]
FULL = [[2] * 6, [4] * 3]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("danet", {}, CONTRACTED),
        ("ccnet", {}, FULL),
        ("ccnet", {"variant": "mmseg"}, CONTRACTED),
        ("ccnet", {"contract_dilation": True}, CONTRACTED),
        ("ocnet_base", {}, FULL),
        ("ocnet_base", {"variant": "openseg"}, CONTRACTED),
        ("ann", {}, CONTRACTED),
        ("dnl", {}, CONTRACTED),
        ("isa", {}, CONTRACTED),
        ("ocr", {}, CONTRACTED),
        ("psanet", {}, FULL),
        ("pspnet", {}, FULL),
        ("deeplabv3", {}, CONTRACTED),
        ("danet", {"contract_dilation": False}, FULL),
        ("ccnet", {"multi_grid": (4, 8, 16)}, [[2] * 6, [4, 8, 16]]),
        ("ccnet", {"output_stride": 16}, [[1] * 6, [2] * 3]),
        ("ccnet", {"output_stride": 32}, [[1] * 6, [1] * 3]),
    ],
)
def test_dilations(name: str, options: dict[str, Any], expected: list[list[int]]) -> None:
    assert dilations(build(name, backbone="resnet50", **options)) == expected


def test_dilations_of_basic_blocks() -> None:
    """ResNet-18 has two 3x3 convolutions in a block; a contracted first block has 1 and 2."""
    for contract, expected in ((True, [1, 2]), (False, [2, 2])):
        model = build("fcn", backbone="resnet18", contract_dilation=contract)
        block = model.backbone.net.layer3[0]
        assert [block.conv1.dilation[0], block.conv2.dilation[0]] == expected


@pytest.mark.parametrize(("name", "rows"), [("danet", 8), ("ccnet", 9), ("ocnet_base", 9)])
def test_pooling_that_rounds_up_gives_one_more_row(name: str, rows: int) -> None:
    """Of 64 pixels, rounded down 32, 16, 8; rounded up 32, 17, 9."""
    model = build(name, backbone="resnet18")
    features = model.backbone(torch.empty(2, 3, 64, 65, device="meta"))
    assert features[-1].shape[2:] == (rows, 9)


@pytest.mark.parametrize("backbone", ["tiny", "mobilenetv2_100"])
@pytest.mark.parametrize(
    "option", [{"contract_dilation": False}, {"ceil_pool": True}, {"dilate_second": False}]
)
def test_options_of_resnets_are_refused_elsewhere(backbone: str, option: dict[str, bool]) -> None:
    assert create_model("ccnet", num_classes=2, backbone=backbone, pretrained=False)
    with pytest.raises(UserError, match=next(iter(option))):
        create_model("danet", num_classes=2, backbone=backbone, pretrained=False, **option)


def test_rates_follow_the_output_stride() -> None:
    for stride, expected in ((8, [1, 12, 24, 36]), (16, [1, 6, 12, 18])):
        model = build("deeplabv3", output_stride=stride)
        branches = model.head.context.pool.branches
        assert [branch[0].dilation[0] for branch in branches] == expected


@pytest.mark.parametrize(
    ("name", "variant", "expected"),
    [
        ("ccnet", None, {"auxiliary": 0.4}),
        ("danet", None, {"position": 1.0, "channel": 1.0}),
        ("danet", "mmseg", {"position": 1.0, "channel": 1.0, "auxiliary": 0.4}),
        ("deeplabv3", None, {"auxiliary": 0.5}),
        ("emanet", None, {}),
        ("encnet", None, {"presence": 0.2, "auxiliary": 0.2}),
        ("encnet", "mmseg", {"presence": 0.2, "auxiliary": 0.4}),
        ("fcn", None, {}),
        ("fcn", "ocnet", {}),
        ("interaction", None, {"pca": 0.1, "diversity": 0.1}),
        ("nonlocal", None, {"auxiliary": 0.4}),
        ("ocnet_base", None, {"auxiliary": 0.4}),
        ("ocr", None, {"regions": 0.4}),
        ("ocr_asp", None, {"regions": 0.4}),
        ("ocr", "mmseg", {"regions": 0.4}),
        ("pspnet", None, {"auxiliary": 0.4}),
    ],
)
def test_losses(name: str, variant: str | None, expected: dict[str, float]) -> None:
    assert tiny(name, variant=variant).loss_weights == expected


@pytest.mark.parametrize(
    ("name", "variant", "expected"),
    [
        ("ccnet", None, True),
        ("danet", None, True),
        ("danet", "mmseg", False),
        ("deeplabv3", None, False),
        ("deeplabv3", "encoding", True),
        ("ocnet_asp", None, True),
        ("pspnet", None, True),
        ("pspnet", "mmseg", False),
    ],
)
def test_upsampling(name: str, variant: str | None, expected: bool) -> None:
    model = tiny(name, variant=variant)
    assert model.align_corners is expected
    inside = [m.align_corners for m in model.head.modules() if hasattr(m, "align_corners")]
    assert set(inside) <= {expected}


def auxiliary_head(name: str, variant: str | None = None) -> tuple[int, bool, list[str], float]:
    """Width, bias, the layers, and the dropout of an auxiliary head on 1024 channels."""
    head = build(name, variant=variant, auxiliary=True).auxiliary_head
    conv, drop = head.reduce[0], head.classify[0]
    kinds = [type(m).__name__ for m in [*head.reduce, drop]]
    return conv.out_channels, conv.bias is not None, kinds, drop.p


def test_auxiliary_heads() -> None:
    relu, leaky = ["Conv2d", "BatchNorm2d", "ReLU"], ["Conv2d", "BatchNorm2d", "LeakyReLU"]
    assert auxiliary_head("danet") == (256, False, [*relu, "Dropout"], 0.1)
    assert auxiliary_head("danet", "mmseg") == (256, False, [*relu, "Dropout2d"], 0.1)
    assert auxiliary_head("pspnet") == (256, False, [*relu, "Dropout2d"], 0.1)
    assert auxiliary_head("ccnet") == (512, True, [*leaky, "Dropout2d"], 0.1)
    assert auxiliary_head("ocnet_base") == (512, True, [*leaky, "Dropout2d"], 0.05)
    assert auxiliary_head("ocnet_asp") == (512, True, [*leaky, "Dropout2d"], 0.1)
    assert auxiliary_head("ocnet_pyramid") == (
        512,
        True,
        ["Conv2d", "BatchNorm2d", "Dropout2d"],
        0.05,
    )
    assert auxiliary_head("ocnet_base", "openseg")[3] == 0.0
    assert auxiliary_head("isa") == (512, True, [*leaky, "Dropout2d"], 0.05)
    assert auxiliary_head("ann") == (512, True, [*relu, "Dropout2d"], 0.05)
    assert auxiliary_head("dnl") == (512, False, [*relu, "Dropout2d"], 0.1)
    assert auxiliary_head("dranet") == (256, False, [*relu, "Dropout2d"], 0.1)
    assert auxiliary_head("encnet") == (256, False, [*relu, "Dropout"], 0.1)


def slopes(module: nn.Module) -> set[float]:
    leaky = {m.negative_slope for m in module.modules() if isinstance(m, nn.LeakyReLU)}
    return leaky | {0.0 for m in module.modules() if isinstance(m, nn.ReLU)}


def test_activations_of_the_heads() -> None:
    assert slopes(tiny("ccnet").head) == {0.01}
    assert slopes(tiny("ccnet", variant="mmseg").head) == {0.0}
    assert slopes(tiny("ocnet_asp").head) == {0.01}
    assert slopes(tiny("danet").head) == {0.0}
    assert len(tiny("ocnet_pyramid").head.context.reduce) == 2  # no ReLU


def test_dropout_of_the_heads() -> None:
    def drops(name: str, variant: str | None = None) -> list[tuple[str, float]]:
        layers = tiny(name, variant=variant).head.modules()
        kinds = (nn.Dropout, nn.Dropout2d)
        return [(type(m).__name__, m.p) for m in layers if isinstance(m, kinds) and m.p]

    assert drops("fcn") == [("Dropout", 0.1)]
    assert drops("fcn", "ocnet") == [("Dropout2d", 0.05)]
    assert drops("fcn", "mmseg") == [("Dropout2d", 0.1)]
    assert drops("ccnet") == [("Dropout2d", 0.1)]
    assert drops("ann") == [("Dropout2d", 0.05)] * 2
    assert drops("ann", "mmseg") == [("Dropout2d", 0.1)]
    assert drops("isa") == [("Dropout2d", 0.05)]
    assert drops("isa", "mmseg") == [("Dropout2d", 0.1)]
    assert drops("ocr") == [("Dropout2d", 0.05)] * 2  # coarse logits, block
    assert drops("ocr", "mmseg") == [("Dropout2d", 0.1)] * 2  # coarse logits, logits
    assert drops("ocnet_asp") == [("Dropout2d", 0.1)]
    assert drops("ocnet_base") == [("Dropout2d", 0.05)]
    assert drops("deeplabv3") == [("Dropout", 0.5)]
    assert drops("deeplabv3", "encoding") == [("Dropout2d", 0.5), ("Dropout", 0.1)]
    assert drops("deeplabv3", "mmseg") == [("Dropout2d", 0.1)]


def test_initialisation_of_mmsegmentation() -> None:
    """Normal: deviation 0.01 in the classifier, sqrt(2 / fan out) before a norm."""
    model = create_model("fcn", num_classes=19, backbone="tiny", width=96, variant="mmseg")
    last = model.head.classify[1]
    assert last.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert last.bias.abs().max() == 0
    for conv, fan in (
        (model.head.context.bottleneck[0], 96 * 9),
        (model.auxiliary_head.reduce[0], 64 * 9),
    ):
        assert conv.weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.05)
        assert conv.weight.abs().max() > 3 * conv.weight.std()  # not uniform


@pytest.mark.parametrize("name", ON_TINY)
def test_every_variant_trains_and_tests(name: str) -> None:
    for variant, published in NETWORKS[name].variants.items():
        model = tiny(name, variant=variant)
        images = torch.randn(2, 3, 40, 56)
        out = model.train()(images)
        assert ("auxiliary" in out.auxiliary) is published.auxiliary
        assert set(out.auxiliary) | set(out.penalties) == set(model.loss_weights)
        out = model.eval()(images)
        assert out.logits.shape == (2, 3, 40, 56)
        assert out.logits.isfinite().all()
        assert out.auxiliary == {}
        assert out.penalties == {}


@pytest.mark.parametrize("name", ON_TINY)
def test_every_network_names_its_paper(name: str) -> None:
    network = NETWORKS[name]
    assert network.paper
    assert network.attention
    assert network.year is None or 2014 < network.year < 2026


def test_concat_head_of_ccnet_puts_the_input_first() -> None:
    model = tiny("ccnet", recurrence=1).eval()
    seen: dict[str, torch.Tensor] = {}
    join = model.head.context.join
    join.register_forward_hook(lambda _m, args, out: seen.update(x=args[0], out=out))
    model(torch.randn(1, 3, 40, 56))
    assert torch.equal(seen["out"][:, :64], seen["x"])
    assert torch.equal(seen["out"][:, 64:], join.branch(seen["x"]))


def test_interaction_fuses_a_pyramid() -> None:
    model = tiny("interaction", layers=2, size=(4, 6)).train()
    assert [w.shape for w in model.head.attention.maps] == [(24, 64), (24, 64)]
    model(torch.randn(2, 3, 40, 56)).logits.sum().backward()
    assert all(w.grad.abs().max() > 0 for w in model.head.attention.maps)
    with pytest.raises(UserError, match="layers must be 1 to 3, not 4"):
        tiny("interaction", layers=4)


def test_ocr_attends_to_its_coarse_logits_in_evaluation_too() -> None:
    """Resized where the two stages differ in size, as here: strides 4 and 8."""
    model = tiny("ocr", align_corners=False).eval()
    seen: list[torch.Tensor] = []
    model.head.block.register_forward_hook(lambda _m, args, _out: seen.extend(args))
    features = model.backbone(torch.randn(1, 3, 40, 56))
    model.head(features)
    x, regions = seen
    assert x.shape[2:] == (5, 7)
    coarse = nn.functional.interpolate(
        model.head.regions(features).logits, (5, 7), mode="bilinear", align_corners=False
    )
    assert torch.equal(regions, coarse)


def test_encnet_predicts_the_classes_of_an_image_in_training() -> None:
    assert tiny("encnet").train()(torch.randn(2, 3, 40, 56)).auxiliary["presence"].shape == (2, 3)


def test_dranet_has_logits_at_the_size_of_the_first_stage() -> None:
    model = tiny("dranet").eval()
    features = model.backbone(torch.randn(1, 3, 40, 56))
    assert model.head(features).logits.shape == (1, 3, 20, 28)
    assert len([m for m in model.head.modules() if hasattr(m, "gamma")]) == 3


def test_emanet_freezes_the_convolution_without_gradient() -> None:
    model = tiny("emanet")
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["head.context.block.first.weight", "head.context.block.first.bias"]


def test_unknown_variant_is_reported() -> None:
    with pytest.raises(UserError, match="'ccnet' has no variant 'gluon'; it has official, mmseg"):
        tiny("ccnet", variant="gluon")


@pytest.mark.parametrize("name", ON_TINY)
def test_every_network_travels(name: str, tmp_path: Path) -> None:
    """A folder restores the last variant of each, with its settings."""
    model = tiny(name, variant=list(NETWORKS[name].variants)[-1])
    images = torch.randn(2, 3, 40, 56)
    model.train()(images)  # norms and bases change their initial values
    model.eval().save_pretrained(tmp_path)
    other = load_model(tmp_path)
    assert torch.equal(other(images).logits, model(images).logits)
    assert (other.align_corners, other.loss_weights) == (model.align_corners, model.loss_weights)


@pytest.mark.parametrize("name", ON_TINY)
def test_half_precision_is_close_and_learns(name: str) -> None:
    """Under autocast, as in ``--trainer.precision bf16-mixed``, in any memory format."""
    model = tiny(name).eval()
    images = torch.randn(2, 3, 40, 56)
    with torch.no_grad():
        exact = model(images).logits
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(images.to(memory_format=torch.channels_last)).logits
    assert torch.allclose(mixed.float(), exact, rtol=0, atol=0.05 * exact.abs().max().item())
    with torch.autocast("cpu", torch.bfloat16):
        out = model.train()(images)
    total = out.logits.float().square().mean() + sum(out.penalties.values())
    total.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
