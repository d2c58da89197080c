"""Benchmark of prediction: a whole DANet from an image to labels, against the usual code."""

import torch
import torch.nn.functional as F
from torch import Tensor

from scenewise.apps.bench.measure import Row, compare
from scenewise.attention import ChannelAttention, PositionAttention
from scenewise.inference.predictor import Predictor
from scenewise.models.build import create_model
from scenewise.models.heads.danet import DANetHead
from scenewise.models.segmenter import Segmenter

_CLASSES, _SIZE = 19, (512, 1024)


def rows(repeats: int = 5) -> list[Row]:
    """DANet with ResNet-50 at stride 8, one image of 512 x 1024, 19 classes."""
    torch.manual_seed(0)
    model = create_model(
        "danet", num_classes=_CLASSES, backbone="resnet50", pretrained=False
    ).eval()
    image = torch.rand(3, *_SIZE)
    plain = _plain_labels(model, image)
    trained, folded = Predictor(model, fast=False), Predictor(model)
    for name, predictor in {"as trained": trained, "for inference": folded}.items():
        share = (predictor(image).labels == plain).double().mean().item()
        if share < 0.9999:
            raise AssertionError(f"{name}: only {share:.4%} of the labels agree")
    variants = {
        "plain": lambda: _plain_labels(model, image),
        "scenewise, as trained": lambda: trained(image),
        "scenewise, for inference": lambda: folded(image),
    }
    return compare(f"DANet R50, {_SIZE[0]} x {_SIZE[1]}, one image to labels", variants, repeats)


@torch.no_grad()
def _plain_labels(model: Segmenter, image: Tensor) -> Tensor:
    """All three logits, from dense attention, upsampled to the image size; then the arg max."""
    head = model.head
    assert isinstance(head, DANetHead)
    position, channel = dense_branches(head, model.backbone(model.normalize(image[None]))[-1])
    both = head.classify(position + channel)
    logits = [both, head.classify_position(position), head.classify_channel(channel)]
    full = [F.interpolate(y, _SIZE, mode="bilinear", align_corners=True) for y in logits]
    return full[0][0].argmax(0)


def dense_branches(head: DANetHead, x: Tensor) -> tuple[Tensor, Tensor]:
    """The branches of DANet's head, with attention as most ports of DANet compute it."""
    block, other = head.position[1], head.channel[1]
    assert isinstance(block, PositionAttention)
    assert isinstance(other, ChannelAttention)
    position = head.position[2](_dense_position(block, head.position[0](x)))
    return position, head.channel[2](_plain_channel(other, head.channel[0](x)))


def _plain_channel(block: ChannelAttention, x: Tensor) -> Tensor:
    """Channel attention with PyTorch's softmax, whose weights may be subnormal."""
    rows = x.flatten(2)  # (B, C, N)
    energy = rows @ rows.transpose(1, 2)  # (B, C, C)
    weights = torch.softmax(energy.amax(-1, keepdim=True) - energy, dim=-1)
    out: Tensor = block.gamma * (weights @ rows).view_as(x) + x
    return out


def _dense_position(block: PositionAttention, x: Tensor) -> Tensor:
    """Position attention as the paper draws it, with the (B, N, N) attention map."""
    query, key, value = (part(x).flatten(2) for part in (block.query, block.key, block.value))
    weights = torch.softmax(query.transpose(1, 2) @ key, dim=-1)
    out: Tensor = block.gamma * (value @ weights.transpose(1, 2)).view_as(x) + x
    return out
