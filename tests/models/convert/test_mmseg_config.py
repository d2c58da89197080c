"""The config text in a file decides, over its name; what cannot be built is refused."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from scenewise.errors import UserError
from scenewise.models.convert import Options, make_plan
from scenewise.models.convert.from_mmseg import _settings
from scenewise.models.convert.mmseg_config import read_config
from scenewise.models.preprocessing import Preprocessing
from tests.models.convert import external_mmseg as external
from tests.models.convert.compare import differs
from tests.models.convert.external import Weights

SIZE = (41, 57)


def text(head: str, backbone: str = "", rest: str = "") -> str:
    """A config as mmsegmentation writes it, at output stride 8."""
    if "dilations" not in backbone:
        backbone += "dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1), contract_dilation=True, "
    return f"""norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    backbone=dict(
        type='ResNetV1c', depth=50, num_stages=4, out_indices=(0, 1, 2, 3), {backbone}
        norm_cfg=dict(type='SyncBN', requires_grad=True), norm_eval=False, style='pytorch'),
    decode_head=dict(in_index=3, channels=512, {head}),
    auxiliary_head=dict(type='FCNHead', in_index=2))
{rest}
"""


def settings(config: str, network: str, file: str = "iter_40000.pth") -> dict[str, Any]:
    held = read_config(file, {"meta": {"cfg": config}})
    return _settings(file, network, held, Options())


@pytest.mark.parametrize("key", ["config", "cfg"])
def test_danet_of_the_769_config_under_another_name(tmp_path: Path, key: str) -> None:
    """Dilations, align_corners, mean, deviation and order of channels, as in the file."""
    norm = "mean=[10.0, 20.0, 30.0], std=[2.0, 3.0, 4.0]"
    rest = f"img_norm_cfg = dict({norm}, to_rgb=False)"
    if key == "cfg":
        rest = f"data_preprocessor = dict(type='SegDataPreProcessor', {norm}, bgr_to_rgb=False)"
    config = text("type='DAHead', align_corners=True", rest=rest)
    network = partial(external.network, head=external.danet, classes=5, corners=True)
    model, difference = differs(
        tmp_path / "danet_r50-d16_512x1024.pth",  # wrong in stride and crop
        network,
        Weights(),
        wrap=lambda tensors: {"meta": {key: config}, "state_dict": tensors},
        size=SIZE,
    )
    assert difference < 1e-4
    assert model.preprocessing == Preprocessing((10, 20, 30), (2, 3, 4), "BGR", 255.0)


def test_dilations_that_are_not_contracted(tmp_path: Path) -> None:
    config = text(
        "type='PSPHead', pool_scales=(1, 2, 4, 8)", "strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), "
    )
    network = partial(
        external.network,
        head=partial(external.pspnet, bins=(1, 2, 4, 8)),
        classes=5,
        last=(4,),
        third_first=2,
    )
    model, difference = differs(
        tmp_path / "iter_1.pth",
        network,
        Weights(),
        wrap=lambda tensors: {"meta": {"cfg": config}, "state_dict": tensors},
        size=SIZE,
    )
    assert difference < 1e-4
    assert model.recipe["contract_dilation"] is False
    assert model.recipe["bins"] == [1, 2, 4, 8]


def test_multi_grid_and_rates(tmp_path: Path) -> None:
    config = text(
        "type='ASPPHead', dilations=(1, 6, 12, 18)",
        "dilations=(1, 1, 1, 2), strides=(1, 2, 2, 1), multi_grid=(1, 2, 4), ",
    )
    network = partial(
        external.network,
        head=partial(external.deeplabv3, rates=(6, 12, 18)),
        classes=5,
        last=(1, 2, 4),
        stride16=True,
    )
    _, difference = differs(
        tmp_path / "best.pth",
        network,
        Weights(),
        wrap=lambda tensors: {"meta": {"cfg": config}, "state_dict": tensors},
        size=(129, 209),
    )
    assert difference < 1e-4


def test_recurrence(tmp_path: Path) -> None:
    config = text("type='CCHead', recurrence=3")
    network = partial(external.network, head=partial(external.ccnet, recurrence=3), classes=5)
    _, difference = differs(
        tmp_path / "iter_1.pth",
        network,
        Weights(),
        wrap=lambda tensors: {"meta": {"config": config}, "state_dict": tensors},
        size=SIZE,
    )
    assert difference < 1e-4


def test_an_option_wins_over_the_config_and_the_config_over_the_name() -> None:
    file = "ccnet_r50-d16_769x769.pth"
    held = read_config(file, {"meta": {"cfg": text("recurrence=3")}})
    decided = _settings(file, "ccnet", held, Options(recurrence=1))
    assert decided["recurrence"] == (1, "option")
    assert decided["output_stride"] == (8, "config in the file")
    assert decided["align_corners"] == (False, "config in the file")  # its default
    assert decided["preprocessing"].origin == "released default"  # the text has none
    named = _settings(file, "ccnet", None, Options())
    assert named["output_stride"] == (16, "file name")
    assert named["align_corners"] == (True, "file name")
    assert named["recurrence"] == (2, "released default")


@pytest.mark.parametrize(
    ("network", "head", "option", "value"),
    [
        ("ann", "key_pool_scales=(1, 2), in_index=[2, 3]", "sizes", [1, 2]),
        ("dnl", "temperature=0.1", "temperature", 0.1),
        ("emanet", "num_stages=2", "stages", 2),
        ("fcn", "dilation=6", "dilation", 6),
        ("upernet", "in_index=[0, 1, 2, 3], pool_scales=(1, 2, 4, 8)", "bins", [1, 2, 4, 8]),
        ("isa", "down_factor=(4, 6)", "tile", [4, 6]),
        ("deeplabv3", "", "rates", [6, 12, 18]),  # the code's default
        ("deeplabv3plus", "dilations=(1, 3, 5, 7)", "rates", [3, 5, 7]),
    ],
)
def test_head_settings(network: str, head: str, option: str, value: Any) -> None:
    config = text(head).replace("in_index=3, ", "") if "in_index" in head else text(head)
    assert settings(config, network)[option] == (value, "config in the file")


PUBLISHED = {
    "ann": "type='ANNHead', in_index=[2, 3], project_channels=256, query_scales=(1, ), "
    "key_pool_scales=(1, 3, 6, 8)",
    "ccnet": "type='CCHead', in_index=3, recurrence=2",
    "danet": "type='DAHead', in_index=3, pam_channels=64",
    "deeplabv3": "type='ASPPHead', in_index=3, dilations=(1, 12, 24, 36)",
    "deeplabv3plus": "type='DepthwiseSeparableASPPHead', in_index=3, dilations=(1, 12, 24, 36), "
    "c1_in_channels=256, c1_channels=48",
    "dnl": "type='DNLHead', in_index=3, reduction=2, use_scale=True, mode='embedded_gaussian'",
    "emanet": "type='EMAHead', in_index=3, ema_channels=256, num_bases=64, num_stages=3",
    "encnet": "type='EncHead', in_index=(1, 2, 3), num_codes=32, add_lateral=False",
    "fcn": "type='FCNHead', in_index=3, num_convs=2, concat_input=True",
    "gcnet": "type='GCHead', in_index=3, ratio=0.25, pooling_type='att', "
    "fusion_types=('channel_add', )",
    "isa": "type='ISAHead', in_index=3, isa_channels=256, down_factor=(8, 8)",
    "nonlocal": "type='NLHead', in_index=3, reduction=2, use_scale=True",
    "ocr": "type='OCRHead', in_index=3, ocr_channels=256",
    "pspnet": "type='PSPHead', in_index=3, pool_scales=(1, 2, 3, 6)",
}


@pytest.mark.parametrize("network", PUBLISHED)
def test_published_configs_give_the_released_settings(network: str) -> None:
    """A config of each head, as published, decides what its published file name decides."""
    norm = "norm_cfg=dict(type='SyncBN', requires_grad=True), align_corners=False"
    head = f"dict(channels=512, {PUBLISHED[network]}, {norm})"
    if network == "ocr":
        regions = "type='FCNHead', in_index=2, num_convs=1, concat_input=False"
        head = f"[dict({regions}, {norm}), {head}]"
    mean, std = "mean=[123.675, 116.28, 103.53]", "std=[58.395, 57.12, 57.375]"
    rest = f"img_norm_cfg = dict({mean}, {std}, to_rgb=True)"
    config = text("", rest=rest).replace("dict(in_index=3, channels=512, )", head)
    assert head in config
    decided = settings(config, network)
    released = _settings(f"{network}.pth", network, None, Options())
    assert {k: s.value for k, s in decided.items()} == {k: s.value for k, s in released.items()}
    assert {setting.origin for setting in decided.values()} == {"config in the file"}


@pytest.mark.parametrize(
    ("head", "backbone", "message"),
    [
        ("dilation=2", "", "dilation 2 in its config, which is not supported; supported is 1"),
        ("use_scale=False", "", "use_scale False"),
        ("mode='dot_product'", "", "mode 'dot_product'"),
        ("in_index=2", "", "in_index 2"),
        ("act_cfg=dict(type='LeakyReLU')", "", "type 'LeakyReLU'"),
        ("norm_cfg=dict(type='BN', eps=0.001)", "", "eps 0.001"),
        ("align_corners=other", "", "align_corners not a literal"),
        ("", "style='caffe', ", "style 'caffe'"),
        ("", "avg_down=True, ", "avg_down True"),
        ("", "dilations=(1, 1, 1, 1), strides=(1, 2, 1, 1), ", "strides and dilations"),
        ("", "multi_grid=(0, 1, 2), ", r"multi_grid \(0, 1, 2\)"),
    ],
)
def test_settings_that_cannot_be_built_are_refused(head: str, backbone: str, message: str) -> None:
    config = text(head, backbone)
    if "style" in backbone:
        config = config.replace(", style='pytorch'", "")
    if "in_index" in head:
        config = config.replace("in_index=3, ", "")
    with pytest.raises(UserError, match=message) as error:
        settings(config, "nonlocal")
    assert "\n" not in str(error.value)


def test_the_text_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="decode_head not a literal"):
        settings(
            "model = dict(backbone=dict(strides=(1,2,1,1), dilations=(1,1,2,4)), "
            "decode_head=open('made', 'w'))",
            "fcn",
        )
    assert not (tmp_path / "made").exists()
    with pytest.raises(UserError, match="no config is longer"):
        settings("#" * 1_000_001, "fcn")
    for broken in ("(" * 10_000, "model = " + "-" * 100_000 + "1", "model = dict(", "a = 1", "\0"):
        assert read_config("x.pth", {"meta": {"cfg": broken}}) is None
    assert read_config("x.pth", {"meta": {"cfg": torch.zeros(1)}}) is None


def test_normalisation_in_a_pipeline_of_0x() -> None:
    rest = """test_pipeline = [dict(type='LoadImageFromFile'), dict(type='MultiScaleFlipAug',
        transforms=[dict(type='Normalize', mean=[1, 2, 3], std=[4, 5, 6], to_rgb=True)])]"""
    decided = settings(text("", rest=rest), "fcn")["preprocessing"]
    assert decided == (Preprocessing((1, 2, 3), (4, 5, 6), "RGB", 255.0), "config in the file")
    for wrong in ("mean=[1, 2]", "std=[0, 1, 1]", "to_rgb=1"):
        with pytest.raises(UserError, match=wrong.split("=")[0]):
            settings(text("", rest=f"img_norm_cfg = dict({wrong})"), "fcn")


def test_what_is_assumed_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = Weights()
    with torch.no_grad():
        external.network(weights, torch.zeros(1, 3, 33, 41), external.fcn, 3, depth=18, last=(2, 4))
    content: dict[str, Any] = {"state_dict": weights.tensors}
    torch.save(content, tmp_path / "iter_1.pth")
    plan = make_plan(tmp_path / "iter_1.pth")
    assert plan.assumed == list(plan.design.settings)
    assert "settings assumed: output_stride 8; multi_grid none; contract_dilation true; " in (
        caplog.text
    )
    caplog.clear()
    norm = "img_norm_cfg = dict(mean=[1, 2, 3], std=[4, 5, 6])"
    torch.save({**content, "meta": {"cfg": text("", rest=norm)}}, tmp_path / "iter_1.pth")
    plan = make_plan(tmp_path / "iter_1.pth")
    assert plan.assumed == []
    assert {setting.origin for setting in plan.design.settings.values()} == {"config in the file"}
    assert "assumed" not in caplog.text
