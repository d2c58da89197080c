"""Checkpoints of networks that this project does not have, by the names of their tensors."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from scenewise.models.convert.spec import Tensors
from scenewise.models.resnet_keys import rename, resnet_mapping
from scenewise.models.state_dict import is_training_only


class _Network(NamedTuple):
    """A network that cannot be converted.

    Attributes:
        title: whose it is, as a user calls it.
        keys: patterns that all occur at the start of a component of the tensors' names.
        nearest: the network here that does most alike; empty for what is no segmentation network.
    """

    title: str
    keys: tuple[str, ...]
    nearest: str = "danet"


def _mmseg(*rows: tuple[str, str, str]) -> list[_Network]:
    """mmsegmentation's, by a part of the head's names."""
    return [
        _Network(f"mmsegmentation's {name}", (rf"decode_head\.{key}",), nearest)
        for name, key, nearest in rows
    ]


def _smp(*rows: tuple[str, str, str]) -> list[_Network]:
    """segmentation_models_pytorch's, by a part of the decoder's names."""
    head = r"segmentation_head\.0\."
    return [
        _Network(f"segmentation_models_pytorch's {name}", (head, rf"decoder\.{key}"), nearest)
        for name, key, nearest in rows
    ]


_NONE = ""
# The first that matches is named; special ones come before general ones.
_NETWORKS: list[_Network] = [
    # Hugging Face's transformers
    _Network("a Hugging Face SegFormer", (r"segformer\.encoder\.",)),
    _Network(
        "a Hugging Face UPerNet",
        (r"decode_head\.lateral_convs\.", r"backbone\.(embeddings|encoder)\."),
        "upernet",
    ),
    _Network("a Hugging Face OneFormer", (r"task_encoder\.", r"pixel_level_module\.")),
    _Network("a Hugging Face Mask2Former or MaskFormer", (r"pixel_level_module\.",)),
    _Network("a Hugging Face BEiT", (r"beit\.",)),
    _Network("a Hugging Face DPT", (r"dpt\.",), "dpt"),
    _Network("a Hugging Face MobileViT", (r"mobilevit(v2)?\.",), "deeplabv3"),
    _Network("a Hugging Face MobileNetV2", (r"mobilenet_v2\.",), "deeplabv3"),
    _Network("a Hugging Face CLIPSeg", (r"clip\.(text|vision)_model\.",)),
    # Segment Anything
    _Network("Meta's Segment Anything 2", (r"sam_mask_decoder\.",), _NONE),
    _Network("Meta's Segment Anything", (r"(image|vision)_encoder\.", r"mask_decoder\."), _NONE),
    # detection and instances
    _Network("a detectron2 network", (r"(backbone\.bottom_up|proposal_generator|sem_seg_head)\.",)),
    _Network("a torchvision detector", (r"backbone\.(body|fpn)\.",)),
    _Network("an Ultralytics YOLO", (r"model\.0\.conv\.weight", r"model\.\d+\.(cv\d|m)\.")),
    _Network("a DETR", (r"(bbox_embed|bbox_predictor)\.layers\.",)),
    # segmentation_models_pytorch
    *_smp(
        ("Unet++", r"blocks\.x_", "fcn"),
        ("MAnet", r"center\.", "danet"),
        ("Linknet", r"blocks\.0\.block\.", "fcn"),
        ("Unet", r"blocks\.0\.conv1\.", "fcn"),
        ("FPN", r"p5\.", "pspnet"),
        ("PSPNet", r"psp\.blocks\.", "pspnet"),
        ("DeepLabV3+", r"aspp\.0\.", "deeplabv3plus"),
        ("DeepLabV3", r"0\.convs\.", "deeplabv3"),
        ("PAN", r"fpa\.", "danet"),
        ("network", "", "danet"),
    ),
    # other codes
    _Network("a nnU-Net", (r"decoder\.seg_layers\.",), "fcn"),
    _Network("a MONAI U-Net", (r"model\.0\.conv\.unit0\.",), "fcn"),
    _Network("a U-Net (inc, down1, ..., outc)", (r"inc\.", r"outc\.conv\."), "fcn"),
    _Network(
        "a DeepLabV3+ (VainF's)", (r"classifier\.aspp\.", r"classifier\.project\."), "deeplabv3plus"
    ),
    _Network("a DeepLabV3+ (jfzhang95's)", (r"aspp\.aspp1\.", r"decoder\."), "deeplabv3plus"),
    _Network("torchvision's LRASPP", (r"classifier\.low_classifier\.",), "deeplabv3"),
    _Network(
        "torchvision's DeepLabV3 on a MobileNet",
        (r"backbone\.0\.0\.weight", r"classifier\.0\.convs\."),
        "deeplabv3",
    ),
    _Network("NVIDIA's SegFormer", (r"decode_head\.linear_c1\.",)),
    # mmsegmentation
    *_mmseg(
        ("SegFormer", r"fusion_conv\.", "danet"),
        ("Semantic FPN", r"scale_heads\.", "pspnet"),
        ("PointRend", r"1\.fcs\.", "ocr"),
        ("SETR", r"up_convs\.", "danet"),
        ("DPT", r"reassemble_blocks\.", "dpt"),
        ("Mask2Former or MaskFormer", r"(pixel_decoder|transformer_decoder)\.", "danet"),
        ("K-Net", r"kernel_(generate|update)_head\.", "danet"),
        ("PSANet", r"(attention_p|reduce_p|psamask)\.", "psanet"),
        ("APCNet", r"acm_modules\.", "pspnet"),
        ("DMNet", r"dcm_modules\.", "pspnet"),
        ("SegNeXt", r"hamburger\.", "emanet"),
        ("Segmenter", r"(dec_proj|cls_emb)", "danet"),
        ("LRASPP", r"conv_up_input\.", "deeplabv3"),
        ("PIDNet", r"(i_head|p_head)\.", "danet"),
    ),
    _Network("mmsegmentation's U-Net", (r"backbone\.decoder\.\d+\.conv_block\.",), "fcn"),
    _Network("mmsegmentation's BiSeNet", (r"backbone\.(context_path|detail|bga)\.",), "danet"),
    _Network("a network on an HRNet", (r"(backbone\.)?stage2\.0\.branches\.",), "ocr"),
    _Network("a network on a Swin Transformer", (r"backbone\.(.*\.)?attn\.w_msa\.",)),
    _Network("a network on a MobileNet", (r"backbone\.layer\d\.0\.conv\.0\.conv\.",), "deeplabv3"),
    _Network("a network on a ConvNeXt", (r"backbone\.(.*\.)?depthwise_conv\.",)),
    _Network("a network on a vision transformer", (r"backbone\.(.*\.)?patch_embed\.",)),
]
_CLASSIFIER = re.compile(r"(^|\.)(fc|head|heads|classifier)\.((fc|head)\.)?(weight|bias)$")
_TRANSFORMER = re.compile(
    r"(^|\.)(patch_embed|cls_token|pos_embed|reg_token|register_tokens|mask_token|norm|blocks\.\d+|"
    r"layers\.\d+|fc_norm|norm_pre|layernorm)(\.|$)"
)
_PREFIXES = ("", "backbone.", "pretrained.", "encoder.")


def refusal(tensors: Tensors, names: Iterable[str]) -> str | None:
    """What a checkpoint is and what to do instead; None if its names say nothing.

    Args:
        tensors: of the file.
        names: of these tensors, with prefixes that were removed.

    >>> import torch
    >>> names = ["segformer.encoder.block.0.0.layer_norm_1.weight", "decode_head.linear_c.0.bias"]
    >>> refusal(dict.fromkeys(names, torch.ones(1)), names)
    'is a Hugging Face SegFormer, which cannot be converted; train danet on your data instead'
    """
    lines = "\n".join(names)

    def has(pattern: str) -> bool:
        return re.search(rf"^(.*\.)?{pattern}", lines, re.MULTILINE) is not None

    for network in _NETWORKS:
        if all(map(has, network.keys)):
            return f"is {network.title}, which cannot be converted; {_instead(network, tensors)}"
    return None


def bare_backbone(tensors: Tensors) -> str | None:
    """What to do with a backbone without a segmentation head; None if the file is something else.

    >>> import torch
    >>> bare_backbone({"patch_embed.proj.weight": torch.ones(1), "head.weight": torch.ones(1)})
    'is a vision transformer without a segmentation head; give it as backbone_weights'
    """
    body = [key for key in tensors if not _CLASSIFIER.search(key) and not is_training_only(key)]
    kind = None
    if any(all(rename(key, mapping) for key in body) for mapping in _resnets(tensors)):
        kind = "a ResNet"
    elif any("patch_embed" in key for key in body) and all(map(_TRANSFORMER.search, body)):
        kind = "a vision transformer"
    return kind and f"is {kind} without a segmentation head; give it as backbone_weights"


def _resnets(tensors: Tensors) -> list[dict[str, str]]:
    """Key mappings of the ResNets in the file."""
    return [mapping for prefix in _PREFIXES if (mapping := resnet_mapping(tensors, prefix))]


def _instead(network: _Network, tensors: Tensors) -> str:
    if not network.nearest:
        return "it labels no classes; train a network on your data with scenewise fit"
    weights = ", from its ResNet as backbone_weights" if _resnets(tensors) else ""
    return f"train {network.nearest} on your data{weights} instead"
