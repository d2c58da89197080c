"""Checkpoints as training codes write them: the same network comes out, and the plan says so."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scenewise.apps.convert import _summary
from scenewise.errors import UserError
from scenewise.models.convert import Options, make_plan
from scenewise.models.convert.key_mapping import fill
from tests.models.convert import external_mmseg
from tests.models.convert.compare import random_image
from tests.models.convert.external import Weights
from tests.models.convert.external_danet import fcn

SIZE = (33, 41)
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def mmseg() -> tuple[Tensors, Tensor]:
    """A small FCN of mmsegmentation, and its logits."""
    weights = Weights()
    network = partial(external_mmseg.network, head=external_mmseg.fcn, classes=3, depth=18)
    with torch.no_grad():
        return weights.tensors, network(weights, random_image(SIZE))


def same(file: Path, expected: Tensor, options: Options | None = None) -> Any:
    plan = make_plan(file, options)
    with torch.no_grad():
        logits = fill(plan)(random_image(SIZE)).logits
    assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()
    return plan


def test_a_training_of_mmsegmentation(tmp_path: Path, mmseg: tuple[Tensors, Tensor]) -> None:
    """Class names, palette and config stay; the average is in state_dict, as mmengine saves it."""
    tensors, logits = mmseg
    last = {f"module.{key}": tensor + 1 for key, tensor in tensors.items()}
    extra = {
        "decode_head.loss_decode.class_weight": torch.ones(3),
        "auxiliary_head.loss_decode.class_weight": torch.ones(3),
        "data_preprocessor.mean": torch.ones(3, 1, 1),
    }
    content = {
        "state_dict": tensors | extra,
        "ema_state_dict": last | {"steps": torch.tensor(3)},
        "message_hub": {"runtime_info": {"best_score": np.float64(0.7)}},
        "dataset_meta": {"classes": ["a", "b", "c"], "palette": np.arange(9).reshape(3, 3)},
    }
    torch.save(content, tmp_path / "iter_1.pth")
    plan = same(tmp_path / "iter_1.pth", logits)
    assert plan.design.classes.names == ("a", "b", "c")
    assert plan.design.classes.colors == ((0, 1, 2), (3, 4, 5), (6, 7, 8))
    assert plan.left_out == {
        "ema_state_dict": "weights before averaging (EMA)",
        **dict.fromkeys(extra, "losses, metrics and counters of the training"),
    }
    lines = _summary(plan).splitlines()
    assert "tensors  160 loaded, 4 left out, from 'state_dict'" in lines
    assert lines[lines.index("left out") + 1] == "  weights before averaging (EMA): ema_state_dict"
    plan = make_plan(tmp_path / "iter_1.pth", Options(ema=False))
    assert ", from 'ema_state_dict', prefix 'module.' removed" in _summary(plan)
    key = "decode_head.conv_seg.bias"
    assert torch.equal(plan.found.tensors[key], tensors[key] + 1)
    assert plan.source()["options"] == {"ema": False}


def test_the_first_place_of_class_names_wins(tmp_path: Path, mmseg: tuple[Tensors, Tensor]) -> None:
    meta = {"CLASSES": ("x", "y", "z"), "PALETTE": None}
    beside = {"classes": ("a", "b", "c"), "palette": [[1, 1, 1]] * 3}
    content = {"meta": meta, "dataset_meta": beside, "state_dict": mmseg[0]}
    torch.save(content, tmp_path / "x.pth")
    assert make_plan(tmp_path / "x.pth").design.classes.names == ("x", "y", "z")


def test_the_config_of_the_model_says_what_decided(
    tmp_path: Path, mmseg: tuple[Tensors, Tensor]
) -> None:
    torch.save(mmseg[0], tmp_path / "fcn_r18-d8_512x1024.pth")
    plan = make_plan(tmp_path / "fcn_r18-d8_512x1024.pth", Options(multi_grid=(1, 2)))
    settings = plan.source()["settings"]
    assert settings["multi_grid"] == {"value": [1, 2], "decided_by": "option"}
    assert settings["output_stride"] == {"value": 8, "decided_by": "file name"}
    assert settings["contract_dilation"] == {"value": True, "decided_by": "released default"}
    assert settings["preprocessing"]["value"]["mean"] == [123.675, 116.28, 103.53]


@pytest.mark.parametrize("other", ["classes", "layers"])
def test_another_auxiliary_head_is_left_out(
    tmp_path: Path, mmseg: tuple[Tensors, Tensor], other: str
) -> None:
    tensors, logits = dict(mmseg[0]), mmseg[1]
    if other == "classes":
        tensors["auxiliary_head.conv_seg.weight"] = torch.ones(19, 64, 1, 1)
        tensors["auxiliary_head.conv_seg.bias"] = torch.ones(19)
    else:
        tensors["auxiliary_head.convs.1.conv.weight"] = torch.ones(64, 64, 3, 3)
    torch.save(tensors, tmp_path / "x.pth")
    plan = same(tmp_path / "x.pth", logits)
    assert plan.design.arguments["auxiliary"] is False
    assert plan.left_out["auxiliary_head.conv_seg.bias"] == (
        "an auxiliary head of another kind or number of classes"
    )


@pytest.mark.parametrize("prefix", ["segmentor.", "my_network.", "a.b."])
def test_any_prefix_of_the_whole_network(
    tmp_path: Path, mmseg: tuple[Tensors, Tensor], prefix: str
) -> None:
    tensors, logits = mmseg
    content: dict[str, Any] = {f"{prefix}{key}": tensor for key, tensor in tensors.items()}
    torch.save({"state_dict": content | {"criterion.weight": torch.ones(3)}}, tmp_path / "x.pth")
    plan = same(tmp_path / "x.pth", logits)
    assert plan.found.prefix == prefix
    assert list(plan.left_out) == ["criterion.weight"]


def broken(tensor: Tensor, how: str) -> Tensor:
    if how == "meta":
        return tensor.to("meta")
    if how == "quantised":
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)
    return tensor * float("nan")


@pytest.mark.parametrize(
    ("how", "message"),
    [("meta", "without values"), ("quantised", "not numbers"), ("nan", "not finite")],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch.quantize_per_tensor will be removed
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_weights_without_usable_values(
    tmp_path: Path, mmseg: tuple[Tensors, Tensor], how: str, message: str
) -> None:
    key = "decode_head.conv_seg.weight"
    torch.save({**mmseg[0], key: broken(mmseg[0][key], how)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=rf"1 {message} \({key}\); nothing was converted"):
        make_plan(tmp_path / "x.pth")


def test_a_number_of_classes_that_no_mask_can_hold(tmp_path: Path) -> None:
    huge = torch.ones(1).expand(10**9, 1, 1, 1)
    tensors = {"head.sa.gamma": torch.ones(1), "head.conv8.1.weight": huge}
    tensors |= {"pretrained.conv1.weight": torch.ones(64, 3, 7, 7)}
    with torch.no_grad():
        fcn(weights := Weights(), random_image(SIZE), 3)
    torch.save(weights.tensors | tensors, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"has 1,000,000,000 classes in 'head\.conv8"):
        make_plan(tmp_path / "x.pth")


def test_tensors_that_share_their_values(tmp_path: Path, mmseg: tuple[Tensors, Tensor]) -> None:
    """Views of one storage, and one tensor under two names, become tensors of their own."""
    tensors, logits = mmseg
    flat = torch.cat([tensor.flatten().float() for tensor in tensors.values()])
    parts = flat.split([tensor.numel() for tensor in tensors.values()])
    views = {k: p.view(tensors[k].shape) for k, p in zip(tensors, parts, strict=True)}
    torch.save(views, tmp_path / "x.pth")
    plan = same(tmp_path / "x.pth", logits)
    pointers = [p.untyped_storage().data_ptr() for p in fill(plan).parameters()]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_precisions_become_float32(
    tmp_path: Path, mmseg: tuple[Tensors, Tensor], dtype: torch.dtype
) -> None:
    tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in mmseg[0].items()}
    torch.save(tensors, tmp_path / "x.pth")
    model = fill(make_plan(tmp_path / "x.pth"))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    expected = tensors["decode_head.conv_seg.weight"].float()
    assert torch.equal(model.get_parameter("head.classify.1.weight"), expected)
