from functools import partial
from pathlib import Path

import pytest
import torch

from scenewise.classes import CITYSCAPES
from scenewise.models.convert import Options
from scenewise.models.convert.from_mmseg import _classes
from scenewise.models.convert.spec import RGB_255
from tests.models.convert import external_mmseg as external
from tests.models.convert.compare import differs
from tests.models.convert.external import Weights

SIZE = (41, 57)


@pytest.mark.parametrize("name", external.HEADS)
def test_every_head(tmp_path: Path, name: str) -> None:
    network = partial(
        external.network,
        head=external.HEADS[name],
        classes=5,
        auxiliary=name not in ("ocr", "danet"),
    )
    weights = Weights()
    size = (65, 97) if name == "deeplabv3" else SIZE
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
