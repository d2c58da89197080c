"""Wrappers, prefixes and averaged copies, as training codes write them."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from scenewise.errors import UserError
from scenewise.models.safe_load import read_file
from scenewise.models.state_dict import find_state_dict, is_training_only, shared_prefix

LAST, MEAN = torch.ones(2, 2), torch.zeros(2, 2)  # the last step's weights, the averaged ones


@pytest.mark.parametrize(
    ("content", "place", "prefix"),
    [
        ({"a.w": LAST}, "", ""),
        ({"state_dict": {"module.a.w": LAST}}, "state_dict", "module."),
        ({"model": {"module.module.a.w": LAST}}, "model", "module.module."),
        ({"net": {"model._orig_mod.a.w": LAST}}, "net", "model."),
        ({"weights": {"_orig_mod.net.module.a.w": LAST}}, "weights", "net.module."),
        ({"params": {"a._orig_mod.w": LAST}, "optimizer": {"w": LAST}}, "params", ""),
        (
            {"anything": {"inner": {"a.w": LAST}}, "class_weight": torch.ones(3)},
            "anything.inner",
            "",
        ),
        ({"model": {"a.w": LAST}, "state_dict": {"a.w": LAST}}, "state_dict", ""),
    ],
)
def test_wrappers_and_prefixes(content: dict[str, Any], place: str, prefix: str) -> None:
    found = find_state_dict(content, "x.pth")
    assert found.tensors == {"a.w": LAST}
    assert (found.place, found.prefix) == (place, prefix)


def test_what_is_outside_the_prefix_is_left_out() -> None:
    content = {"net.a.w": LAST, "net.b": LAST, "criterion.weight": torch.ones(3), "vgg.w": LAST}
    found = find_state_dict({"state_dict": content}, "x.pth")
    assert found.tensors.keys() == {"a.w", "b"}
    assert found.left_out == dict.fromkeys(("criterion.weight", "vgg.w"), "outside 'net.'")


def test_a_prefix_of_few_names_stays() -> None:
    content = {"model.a": LAST, "b.w": LAST, "c.w": LAST}
    assert find_state_dict(content, "x.pth").tensors.keys() == content.keys()


TWO_COPIES = [
    ({"model": {"a.w": LAST}, "ema": {"module": {"a.w": MEAN}}}, LAST),  # YOLO
    ({"model": {"a.w": LAST}, "model_ema": {"module.a.w": MEAN}}, LAST),  # torchvision
    ({"state_dict": {"a.w": LAST}, "state_dict_ema": {"a.w": MEAN}}, LAST),  # timm
    ({"state_dict": {"student.a.w": LAST, "teacher.a.w": MEAN}}, LAST),
    ({"online_model.a.w": LAST, "ema_model.a.w": MEAN, "initted": torch.tensor(True)}, LAST),
    (  # mmengine's hook swaps them, for deployment
        {
            "state_dict": {"a.w": MEAN},
            "ema_state_dict": {"module.a.w": LAST, "steps": torch.tensor(9)},
            "message_hub": {},
        },
        MEAN,
    ),
]


@pytest.mark.parametrize(("content", "default"), TWO_COPIES)
def test_of_two_copies_ema_chooses(content: dict[str, Any], default: torch.Tensor) -> None:
    for ema, expected in [(None, default), (True, MEAN), (False, LAST)]:
        found = find_state_dict(content, "x.pth", ema=ema)
        assert torch.equal(found.tensors["a.w"], expected)
        reason = "weights before averaging (EMA)" if expected is MEAN else "averaged weights (EMA)"
        assert reason in found.left_out.values()


def test_one_copy_is_taken_whatever_its_name() -> None:
    found = find_state_dict({"ema": {"teacher.a.w": MEAN}}, "x.pth")
    assert found.tensors == {"a.w": MEAN}
    for ema, content in [(True, {"a.w": LAST}), (False, {"ema": {"a.w": MEAN}})]:
        with pytest.raises(UserError, match=r"holds no .*\(EMA\); leave ema out"):
            find_state_dict(content, "x.pth", ema=ema)


def test_buffers_of_mmcvs_ema_hook_are_left_out() -> None:
    content = {"state_dict": {"a.w": LAST, "ema_a_w": MEAN}}
    found = find_state_dict(content, "x.pth")
    assert found.tensors == {"a.w": LAST}
    assert list(found.left_out) == ["ema_a_w"]
    with pytest.raises(UserError, match="does not say which is averaged"):
        find_state_dict(content, "x.pth", ema=True)


def test_several_networks_are_refused() -> None:
    with pytest.raises(UserError, match=r"several networks \(generator, critic\)"):
        find_state_dict({"generator": {"a.w": LAST}, "critic": {"a.w": LAST}}, "x.pth")


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("decode_head.loss_decode.class_weight", True),
        ("decode_head.loss_decode.0.class_weight", True),
        ("criterion.weight", True),
        ("data_preprocessor.mean", True),
        ("val_metrics.confmat", True),
        ("layer1.0.total_ops", True),
        ("head.conv5a.1.num_batches_tracked", False),
        ("glossary.weight", False),
    ],
)
def test_tensors_of_the_training(key: str, expected: bool) -> None:
    assert is_training_only(key) is expected


def test_an_attribute_around_the_whole_network() -> None:
    assert shared_prefix({"danet.a.w": LAST, "danet.b": LAST, "criterion.weight": LAST}) == "danet."
    assert shared_prefix({"danet.a": LAST, "b": LAST}) == ""
    assert shared_prefix({"a.b": LAST, "b.c": LAST}) == ""


def test_a_network_that_was_saved_whole(tmp_path: Path) -> None:
    """Its state dict is read from the object's parts; the classes are not imported."""

    network = torch.nn.Sequential(
        OrderedDict(
            a=torch.nn.Conv2d(2, 3, 1), b=torch.nn.Sequential(torch.nn.BatchNorm2d(3)), c=Custom()
        )
    )
    for content in (network, {"epoch": 3, "ema": network}):
        torch.save(content, tmp_path / "x.pth")
        found = find_state_dict(read_file(tmp_path / "x.pth"), "x.pth").tensors
        assert found.keys() == network.state_dict().keys()
        assert all(torch.equal(found[k], v) for k, v in network.state_dict().items())


class Custom(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.ones(3))
        self.register_buffer("local", torch.ones(3), persistent=False)
