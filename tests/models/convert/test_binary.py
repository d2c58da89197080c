"""Networks with one output channel: two classes, by sigmoid and threshold."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.models.convert import Options, convert, make_plan
from scenewise.models.convert.from_mmseg import _binary_classes
from tests.models.convert import external_mmseg, external_others
from tests.models.convert.compare import random_image
from tests.models.convert.external import Weights
from tests.models.convert.external_danet import fcn

SIZE = (41, 57)


@torch.no_grad()
def one_channel(name: str) -> tuple[Weights, Tensor]:
    """The weights of a network, and its output of one channel with values of both signs."""
    weights = Weights()
    if name == "torchvision":
        network, bias = partial(external_others.torchvision, classes=1), "classifier.4.bias"
    else:
        head, bias = external_mmseg.HEADS[name], "decode_head.conv_seg.bias"
        network = partial(external_mmseg.network, head=head, classes=1)
    weights.tensors[bias] = torch.zeros(1)
    z = network(weights, random_image(SIZE))
    weights.tensors[bias] -= z.median()
    z = network(weights, random_image(SIZE))
    assert z.min() < -0.1
    assert z.max() > 0.1
    return weights, z


def agrees(file: Path, z: Tensor, threshold: float, options: Options | None = None) -> Classes:
    model = convert(file, options)
    with torch.no_grad():
        logits = model(random_image(SIZE)).logits
    margin = math.log(threshold / (1 - threshold))
    certain = (z - margin).abs() > 1e-4 * z.abs().max()  # rounding may decide the others
    assert torch.equal((logits.argmax(1) == 1)[certain[:, 0]], (z.sigmoid() > threshold)[certain])
    shown = logits.softmax(1)[:, 1:]
    assert (shown - (z - margin).sigmoid()).abs().max() < 1e-4
    return model.classes


@pytest.mark.parametrize("name", ["fcn", "danet", "torchvision"])
def test_sigmoid_and_threshold(tmp_path: Path, name: str) -> None:
    file = tmp_path / "iter_1.pth"
    weights, z = one_channel(name)
    torch.save(weights.tensors if name == "torchvision" else {"state_dict": weights.tensors}, file)
    default = 0.5 if name == "torchvision" else 0.3
    assert agrees(file, z, default).names == ("background", "object")
    assert make_plan(file).design.settings["threshold"] == (default, "released default")
    agrees(file, z, 0.6, Options(threshold=0.6))
    with pytest.raises(UserError, match=r"threshold is 1; give a number between 0 and 1"):
        convert(file, Options(threshold=1))


def test_the_threshold_and_the_object_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "iter_1.pth"
    weights, z = one_channel("fcn")
    config = """model = dict(
        backbone=dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), contract_dilation=True),
        decode_head=dict(num_classes=2, out_channels=1, threshold=0.45))"""
    meta = {"cfg": config, "dataset_meta": {"classes": ("vessel",)}}
    torch.save({"meta": meta, "state_dict": weights.tensors}, file)
    assert agrees(file, z, 0.45).names == ("background", "vessel")
    assert make_plan(file).design.settings["threshold"] == (0.45, "config in the file")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("sky", "vessel"), ("sky", "vessel")),
        (("vessel",), ("background", "vessel")),
        (("background",), ("background", "object")),
        (("a", "b", "c"), ("background", "object")),
    ],
)
def test_class_names(names: tuple[str, ...], expected: tuple[str, ...]) -> None:
    content: dict[str, Any] = {"meta": {"CLASSES": names}}
    assert _binary_classes(content).names == expected


@torch.no_grad()
def test_others_are_refused_by_name(tmp_path: Path) -> None:
    weights, file = Weights(), tmp_path / "x.pth"
    fcn(weights, random_image((33, 41)), 1)
    torch.save(weights.tensors, file)
    with pytest.raises(UserError, match="one output channel, which is supported for mmseg and"):
        make_plan(file)
    weights = Weights()
    external_mmseg.network(weights, random_image((33, 41)), external_mmseg.ocr, 1, auxiliary=False)
    torch.save(weights.tensors, file)
    with pytest.raises(UserError, match="OCR with one output channel"):
        make_plan(file)
    weights = Weights()
    external_mmseg.network(weights, random_image((33, 41)), external_mmseg.fcn, 2)
    torch.save(weights.tensors, file)
    with pytest.raises(UserError, match="more than one output channel; leave threshold out"):
        make_plan(file, Options(threshold=0.4))
