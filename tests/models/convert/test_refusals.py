"""What cannot be converted is named, with what to do instead."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scenewise import list_models, load_model
from scenewise.errors import UserError
from scenewise.models.convert import make_plan
from scenewise.models.convert.refusals import _NETWORKS, bare_backbone, refusal

RESNET = ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight")


def tensors(*names: str, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: torch.ones(1) for name in names}


# Names of tensors in their files -> the network's name
NAMED = {
    "mmsegmentation's SegFormer": (
        "backbone.layers.0.0.projection.weight",
        "decode_head.fusion_conv.conv.weight",
    ),
    "mmsegmentation's PointRend": ("decode_head.0.convs.0.conv.weight", "decode_head.1.fcs.0.conv"),
    "a network on an HRNet": (
        "backbone.stage2.0.branches.0.0.conv1.weight",
        "decode_head.1.object_context_block.bottleneck.conv.weight",
    ),
    "a network on a Swin Transformer": (
        "backbone.stages.0.blocks.0.attn.w_msa.qkv.weight",
        "decode_head.psp_modules.0.1.conv.weight",
    ),
    "NVIDIA's SegFormer": (
        "backbone.patch_embed1.proj.weight",
        "decode_head.linear_c1.proj.weight",
    ),
    "a Hugging Face SegFormer": (
        "segformer.encoder.patch_embeddings.0.proj.weight",
        "decode_head.linear_c.0.proj.weight",
    ),
    "a Hugging Face UPerNet": (
        "backbone.embeddings.patch_embeddings.weight",
        "decode_head.psp_modules.0.1.conv.weight",
        "decode_head.lateral_convs.0.conv.weight",
    ),
    "a Hugging Face Mask2Former or MaskFormer": ("model.pixel_level_module.encoder.a",),
    "Meta's Segment Anything": ("image_encoder.pos_embed", "mask_decoder.iou_token.weight"),
    "Meta's Segment Anything 2": ("image_encoder.trunk.a", "sam_mask_decoder.iou_token.weight"),
    "a detectron2 network": (
        "backbone.bottom_up.res2.0.conv1.weight",
        "roi_heads.box_predictor.cls_score.weight",
    ),
    "a torchvision detector": ("backbone.body.conv1.weight", "rpn.head.cls_logits.weight"),
    "an Ultralytics YOLO": ("model.0.conv.weight", "model.22.cv2.0.0.conv.weight"),
    "a DETR": ("transformer.a.weight", "bbox_embed.layers.0.weight"),
    "segmentation_models_pytorch's Unet": (
        *(f"encoder.{key}" for key in RESNET),
        "decoder.blocks.0.conv1.0.weight",
        "segmentation_head.0.weight",
    ),
    "segmentation_models_pytorch's Unet++": (
        "decoder.blocks.x_0_0.conv1.0.weight",
        "segmentation_head.0.weight",
    ),
    "segmentation_models_pytorch's DeepLabV3+": (
        "decoder.aspp.0.convs.0.0.weight",
        "segmentation_head.0.weight",
    ),
    "segmentation_models_pytorch's DeepLabV3": (
        "decoder.0.convs.0.0.weight",
        "segmentation_head.0.weight",
    ),
    "segmentation_models_pytorch's network": ("decoder.new.weight", "segmentation_head.0.weight"),
    "a nnU-Net": ("encoder.stages.0.0.convs.0.conv.weight", "decoder.seg_layers.0.weight"),
    "a U-Net (inc, down1, ..., outc)": ("inc.double_conv.0.weight", "outc.conv.weight"),
    "a DeepLabV3+ (VainF's)": ("classifier.project.0.weight", "classifier.aspp.convs.0.0.weight"),
    "torchvision's LRASPP": ("backbone.0.0.weight", "classifier.low_classifier.weight"),
}


@pytest.mark.parametrize("title", NAMED)
@pytest.mark.parametrize("prefix", ["", "model.", "a.b."])
def test_networks_are_named(title: str, prefix: str) -> None:
    names = [prefix + name for name in NAMED[title]]
    reason = refusal(tensors(*NAMED[title]), names)
    assert reason is not None
    assert reason.startswith(f"is {title}, which cannot be converted; ")
    assert ("backbone_weights" in reason) == any("layer4.0.conv1" in name for name in names)


def test_the_refusal_of_a_file(tmp_path: Path) -> None:
    names = NAMED["segmentation_models_pytorch's Unet"]
    torch.save({"state_dict": tensors(*names, prefix="model.")}, tmp_path / "best.ckpt")
    with pytest.raises(UserError) as error:
        load_model(tmp_path / "best.ckpt")
    assert str(error.value) == (
        "'best.ckpt' is segmentation_models_pytorch's Unet, which cannot be converted; train fcn "
        "on your data, from its ResNet as backbone_weights instead"
    )


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ((*RESNET, "fc.weight"), "a ResNet"),
        (tuple(f"encoder.{key}" for key in RESNET), "a ResNet"),
        (("cls_token", "patch_embed.proj.weight", "blocks.0.norm1.weight"), "a vision transformer"),
        (("patch_embed.proj.weight", "head.weight", "criterion.weight"), "a vision transformer"),
    ],
)
def test_bare_backbones(tmp_path: Path, names: tuple[str, ...], kind: str) -> None:
    torch.save(tensors(*names), tmp_path / "x.pth")
    message = f"'x.pth' is {kind} without a segmentation head; give it as backbone_weights"
    with pytest.raises(UserError, match=message):
        make_plan(tmp_path / "x.pth")


def test_a_network_on_a_resnet_is_no_bare_backbone() -> None:
    assert bare_backbone(tensors(*RESNET, "my_head.conv.weight")) is None
    assert bare_backbone(tensors("patch_embed.proj.weight", "my_head.weight")) is None


CONFIGS: dict[str, dict[str, Any]] = {
    r"segmentation_models_pytorch \(Unet\), which cannot": {"_model_class": "Unet"},
    r"Hugging Face model \(SegformerForSemanticSegmentation\), which cannot": {
        "architectures": ["SegformerForSemanticSegmentation"],
        "model_type": "segformer",
    },
    r"bare backbone of timm \(resnet50\); start a training with --model.backbone resnet50": {
        "architecture": "resnet50",
        "num_features": 2048,
    },
}


@pytest.mark.parametrize("message", CONFIGS)
def test_folders_of_others(tmp_path: Path, message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[message]))
    torch.save({}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=message):
        load_model(tmp_path)


def test_a_folder_of_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model in"):
        load_model(tmp_path)
    (tmp_path / "iter_8000.pth").touch()
    with pytest.raises(UserError, match=r"folder of checkpoints; give one .*iter_8000\.pth'"):
        load_model(tmp_path)


@pytest.mark.parametrize("url", ["https://example.org/a/x.pth", "s3://bucket/x", "file:///x.pth"])
def test_urls(url: str) -> None:
    for path in (url, Path(url)):
        for read in (load_model, make_plan):
            with pytest.raises(UserError, match="is a URL; download the file") as error:
                read(path)
            assert url.replace("///", "//") in str(error.value)
    with pytest.raises(UserError, match="no model in"):
        load_model("C:/nowhere/x")


FILES: dict[str, tuple[str, bytes]] = {
    "an ONNX graph": ("x.onnx", b"\x08\x07"),
    "a network of Keras": ("x.h5", b"\x89HDF\r\n"),
    "a pickle without PyTorch's format": ("x.pkl", b"\x80\x04}."),
    "a Git LFS pointer": ("x.pth", b"version https://git-lfs.github.com/spec/v1\n"),
    "a web page": ("x.pth", b"\n<!DOCTYPE html><html>"),
    "a compressed archive": ("x.pth", b"\x1f\x8b\x08"),
}


@pytest.mark.parametrize("what", FILES)
def test_other_files(tmp_path: Path, what: str) -> None:
    name, content = FILES[what]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}' is {what}"):
        load_model(tmp_path / name)


def test_a_checkpoint_with_another_suffix_is_read(tmp_path: Path) -> None:
    for name, old in [("x.pkl", True), ("y.h5", False)]:
        torch.save(tensors(*RESNET), tmp_path / name, _use_new_zipfile_serialization=not old)
        with pytest.raises(UserError, match="a ResNet without a segmentation head"):
            load_model(tmp_path / name)


@pytest.mark.parametrize(
    ("records", "what"),
    [
        (("data.pkl", "constants.pkl", "code/a.py"), "TorchScript program; save the state_dict"),
        (("archive_format", "models/model.json"), "exported program of torch.export; save the"),
        (("weights.pth",), "zip archive without a state dict; unpack it"),
    ],
)
def test_archives_of_other_contents(tmp_path: Path, records: tuple[str, ...], what: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        for record in records:
            archive.writestr(f"x/{record}", b"")
    with pytest.raises(UserError, match=what):
        load_model(tmp_path / "x.pt")


def test_too_many_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scenewise.models.safe_load._MOST_RECORDS", 10)
    torch.save({f"a{i}": torch.ones(1) for i in range(11)}, tmp_path / "x.pth")
    with pytest.raises(
        UserError, match=r"holds \d+ records and is not opened; no network has more"
    ):
        load_model(tmp_path / "x.pth")


def test_the_nearest_networks_exist() -> None:
    assert {network.nearest for network in _NETWORKS} - {""} <= set(list_models())
