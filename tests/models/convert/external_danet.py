"""The networks of the DANet repository, from the descriptions of their files."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models.convert.external import (
    Weights,
    as_map,
    attend,
    channel_attention,
    resnet,
    rows,
    upsample,
)


def danet(
    w: Weights,
    x: Tensor,
    classes: int,
    *,
    stem: str = "plain",
    depth: int = 50,
    last: Sequence[int] = (4, 8, 16),
) -> Tensor:
    def block(name: str, y: Tensor) -> Tensor:
        return w.norm(f"head.{name}.1", w.conv(f"head.{name}.0", y, 512, 3)).relu()

    deep = resnet(w, "pretrained.", x, stem=stem, depth=depth, last=last)[-1]
    a = block("conv5a", deep)
    query = rows(w.conv("head.sa.query_conv", a, 64, bias=True))
    key = rows(w.conv("head.sa.key_conv", a, 64, bias=True))
    value = rows(w.conv("head.sa.value_conv", a, 512, bias=True))
    position = w.gamma("head.sa.gamma") * as_map(attend(query, key, value), a) + a
    position = block("conv51", position)
    c = block("conv5c", deep)
    channel = block("conv52", w.gamma("head.sc.gamma") * channel_attention(c) + c)
    w.conv("head.conv6.1", position, classes, bias=True)
    w.conv("head.conv7.1", channel, classes, bias=True)
    return upsample(w.conv("head.conv8.1", position + channel, classes, bias=True), x, True)


def dranet(w: Weights, x: Tensor, classes: int) -> Tensor:
    def block(name: str, y: Tensor, width: int, kernel: int = 3) -> Tensor:
        return w.norm(f"{name}.1", w.conv(f"{name}.0", y, width, kernel)).relu()

    features = resnet(w, "pretrained.", x, stem="encoding", last=(4, 8, 16))
    p = block("head.conv_cpam_b", features[-1], 512)
    centres = torch.cat(
        [
            rows(block(f"head.cpam_enc.conv{i}", F.adaptive_avg_pool2d(p, size), 512, 1))
            for i, size in enumerate((1, 2, 3, 6), start=1)
        ],
        dim=1,
    )
    query = rows(w.conv("head.cpam_dec.conv_query", p, 128, bias=True))
    key = w.linear("head.cpam_dec.conv_key", centres, 128)
    value = w.linear("head.cpam_dec.conv_value", centres, 512)
    p = w.gamma("head.cpam_dec.scale") * as_map(attend(query, key, value), p) + p
    c = block("head.conv_ccam_b", features[-1], 512)
    few = block("head.ccam_enc", c, 32, 1)
    energy = c.flatten(2) @ few.flatten(2).transpose(1, 2)
    weights = (energy.max(-1, keepdim=True).values - energy).softmax(-1)
    c = w.gamma("head.ccam_dec.scale") * (weights @ few.flatten(2)).reshape(c.shape) + c
    p, c = block("head.conv_cpam_e", p, 512), block("head.conv_ccam_e", c, 512)
    high = block("head.conv_cat", torch.cat([p, c], 1), 256)
    low = block("head.clgd.conv_low", features[0], 32)
    high = upsample(high, low, True)
    gate = w.conv("head.clgd.conv_att.0", torch.cat([low, high], 1), 1, bias=True).sigmoid()
    low = w.gamma("head.clgd.gamma") * gate * low
    y = block("head.clgd.conv_cat", torch.cat([low, high], 1), 256)
    y = block("head.clgd.conv_out", y, 256)
    auxiliary = w.norm("cls_aux.1", w.conv("cls_aux.0", features[2], 256, 3)).relu()
    w.conv("cls_aux.4", auxiliary, classes, bias=True)
    return upsample(w.conv("cls_seg.1", y, classes, bias=True), x, True)


def fcn(w: Weights, x: Tensor, classes: int) -> Tensor:
    deep = resnet(w, "pretrained.", x, stem="plain")[-1]
    y = w.norm("head.conv5.1", w.conv("head.conv5.0", deep, 512, 3)).relu()
    return upsample(w.conv("head.conv5.4", y, classes, bias=True), x, True)
