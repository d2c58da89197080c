from functools import partial
from pathlib import Path

import pytest
import torch

from scenewise import load_model
from scenewise.classes import CITYSCAPES
from scenewise.models.convert import Options, make_plan
from scenewise.models.convert.from_mmseg import _classes, _name_settings
from scenewise.models.convert.spec import RGB_255
from tests.models.convert import external_mmseg as external
from tests.models.convert.compare import differs, random_image
from tests.models.convert.external import Weights

SIZE = (41, 57)


@pytest.mark.parametrize("name", external.HEADS)
def test_every_head(tmp_path: Path, name: str) -> None:
    network = partial(
        external.network,
        head=external.HEADS[name],
        classes=5,
        auxiliary=name not in ("ocr", "danet"),
        **({"last": (1, 1, 1), "stride32": True} if name == "upernet" else {}),
    )
    weights = Weights()
    size = (65, 97) if name.startswith("deeplabv3") else SIZE
    model, difference = differs(tmp_path / f"{name}.pth", network, weights, size=size)
    assert difference < 1e-4
    assert model.recipe["name"] == name
    assert model.recipe["backbone"] == "resnet50c"
    assert model.recipe["auxiliary"] is ("auxiliary_head.conv_seg.bias" in weights.tensors)
    assert model.align_corners is False
    assert model.preprocessing == RGB_255


def test_the_crop_is_read_from_the_file_name(tmp_path: Path) -> None:
    """769: logits, and pyramid pooling, are upsampled with align_corners."""
    file = tmp_path / "pspnet_r50-d8_769x769_40k_cityscapes_20200606_112725-86638686.pth"
    head = partial(external.pspnet, corners=True)
    network = partial(external.network, head=head, classes=19, corners=True)
    model, difference = differs(file, network, Weights(), size=SIZE)
    assert difference < 1e-4
    assert model.align_corners
    assert model.classes == CITYSCAPES


def test_stride_and_grid_are_read_from_the_file_name(tmp_path: Path) -> None:
    file = tmp_path / "deeplabv3_r101-d16-mg124_512x1024_40k_cityscapes.pth"
    network = partial(
        external.network,
        head=partial(external.deeplabv3, rates=(6, 12, 18)),
        classes=5,
        depth=101,
        last=(1, 2, 4),
        stride16=True,
    )
    model, difference = differs(file, network, Weights(), size=(129, 209))
    assert difference < 1e-4
    assert model.recipe["output_stride"] == 16
    assert model.recipe["backbone"] == "resnet101c"


def test_deeplabv3plus_of_769_with_few_early_channels(tmp_path: Path) -> None:
    file = tmp_path / "deeplabv3plus_r18-d8_769x769_80k_cityscapes.pth"
    head = partial(external.deeplabv3plus, low=12, corners=True)
    network = partial(external.network, head=head, classes=19, corners=True, depth=18)
    model, difference = differs(file, network, Weights(), size=(129, 161))
    assert difference < 1e-4
    assert model.recipe["low_level"] == 12


@pytest.mark.parametrize("name", ["fcn_d6_r50-d16_512x1024_40k_cityscapes", "fcn-d6_r50b-d16_4xb2"])
def test_fcn_d6_dilates_its_head(tmp_path: Path, name: str) -> None:
    head = partial(external.fcn, dilation=6)
    stem = "plain" if "r50b" in name else "mmseg"
    network = partial(
        external.network, head=head, classes=5, last=(1, 2, 2), stride16=True, stem=stem
    )
    model, difference = differs(tmp_path / f"{name}.pth", network, Weights(), size=(129, 161))
    assert difference < 1e-4
    assert model.recipe["dilation"] == 6


@pytest.mark.parametrize("name", ["pspnet_r50-d32_512x1024_80k", "pspnet_r50b-d32_512x1024_80k"])
def test_pspnet_at_stride_32(tmp_path: Path, name: str) -> None:
    stem = "plain" if "r50b" in name else "mmseg"
    network = partial(
        external.network, head=external.pspnet, classes=5, stride32=True, stem=stem, last=(1,)
    )
    model, difference = differs(tmp_path / f"{name}.pth", network, Weights(), size=(225, 257))
    assert difference < 1e-4
    assert model.recipe["output_stride"] == 32


@pytest.mark.parametrize("name", ["pspnet", "fcn"])
@pytest.mark.parametrize("stem", ["plain", "mmseg"])
def test_resnet_18_dilates_the_first_convolution_of_a_block(
    tmp_path: Path, name: str, stem: str
) -> None:
    network = partial(
        external.network,
        head=external.HEADS[name],
        classes=5,
        depth=18,
        last=(2, 4),
        stem=stem,
    )
    model, difference = differs(tmp_path / f"{name}_r18-d8_512x1024.pth", network, Weights())
    assert difference < 1e-4
    assert model.recipe["backbone"] == ("resnet18" if stem == "plain" else "resnet18c")
    assert model.recipe["dilate_second"] is False
    model.save_pretrained(tmp_path / "out")
    with torch.no_grad():
        images = random_image(SIZE)
        assert torch.equal(load_model(tmp_path / "out")(images).logits, model(images).logits)


def test_only_a_published_file_name_counts(tmp_path: Path) -> None:
    network = partial(external.network, head=external.pspnet, classes=5)
    file = tmp_path / "my-d16-run.pth"
    _, difference = differs(file, network, Weights(), size=SIZE)
    assert difference < 1e-4
    settings = make_plan(file).design.settings
    assert settings["output_stride"] == (8, "released default")
    assert _name_settings("my_r50-d16_769x769.pth", "pspnet") == {}
    assert _name_settings("fcn_r50-d16_769x769.pth", "pspnet") == {}


def test_options_override_the_file_name(tmp_path: Path) -> None:
    file = tmp_path / "ccnet_r50-d8_769x769.pth"
    head = partial(external.ccnet, recurrence=1)
    network = partial(external.network, head=head, classes=5, stem="plain")
    options = Options(recurrence=1, align_corners=False)
    model, difference = differs(file, network, Weights(), options=options, size=SIZE)
    assert difference < 1e-4
    assert model.source["options"] == {"recurrence": 1, "align_corners": False}
    assert model.recipe["backbone"] == "resnet50"


def test_a_converted_network_can_be_trained(tmp_path: Path) -> None:
    """Auxiliary logits are returned, and gradients reach every parameter that is not frozen."""
    network = partial(external.network, head=external.emanet, classes=3)
    model, _ = differs(tmp_path / "e.pth", network, Weights(), size=SIZE)
    output = model.train()(torch.randn(2, 3, *SIZE))
    assert set(output.auxiliary) == {"auxiliary"}
    (output.logits.square().mean() + output.auxiliary["auxiliary"].square().mean()).backward()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {f"head.context.join.branch.block.first.{part}" for part in ("weight", "bias")}
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    "meta",
    [
        {"CLASSES": ("road", "sky"), "PALETTE": [[1, 2, 3], [4, 5, 6]]},
        {"dataset_meta": {"classes": ["road", "sky"], "palette": [[1, 2, 3], [4, 5, 6]]}},
    ],
)
def test_classes_are_read_from_the_file(tmp_path: Path, meta: dict[str, object]) -> None:
    model, _ = differs(
        tmp_path / "fcn.pth",
        partial(external.network, head=external.fcn, classes=2),
        Weights(),
        wrap=lambda tensors: {"meta": meta, "state_dict": tensors},
        size=SIZE,
    )
    assert model.classes.names == ("road", "sky")
    assert model.classes.colors == ((1, 2, 3), (4, 5, 6))


def test_class_names_and_colours_that_do_not_fit() -> None:
    meta = {"CLASSES": ("a", "b"), "PALETTE": [[1, 2]]}
    assert _classes({"meta": meta}, 2).names == ("a", "b")
    assert _classes({"meta": {"CLASSES": ("a",)}}, 2).names == ("class_0", "class_1")
    assert _classes({"meta": torch.zeros(1)}, 2).names == ("class_0", "class_1")
