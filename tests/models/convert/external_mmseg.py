"""mmsegmentation's networks, from the descriptions of their files."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models.convert.external import (
    Weights,
    as_map,
    attend,
    channel_attention,
    criss_cross,
    interlaced,
    resnet,
    rows,
    upsample,
)

D = "decode_head."


def module(
    w: Weights,
    name: str,
    x: Tensor,
    width: int,
    kernel: int = 1,
    *,
    dilation: int = 1,
    rectify: bool = True,
) -> Tensor:
    y = w.conv(f"{name}.conv", x, width, kernel, dilation=dilation)
    y = w.norm(f"{name}.bn", y)
    return y.relu() if rectify else y


def network(
    w: Weights,
    x: Tensor,
    head: Callable[[Weights, list[Tensor], int], Tensor],
    classes: int,
    *,
    corners: bool = False,
    auxiliary: bool = True,
    stem: str = "mmseg",
    depth: int = 50,
    last: Sequence[int] = (2, 4, 4),
    third_first: int = 1,
    stride16: bool = False,
    stride32: bool = False,
) -> Tensor:
    features = resnet(
        w,
        "backbone.",
        x,
        stem=stem,
        depth=depth,
        last=last,
        third_first=third_first,
        stride16=stride16,
        stride32=stride32,
    )
    if auxiliary:
        y = module(w, "auxiliary_head.convs.0", features[2], features[2].shape[1] // 4, 3)
        w.conv("auxiliary_head.conv_seg", y, classes, bias=True)
    return upsample(head(w, features, classes), x, corners)


def joined(
    w: Weights,
    features: list[Tensor],
    classes: int,
    block: Callable[[Weights, Tensor], Tensor],
    dilation: int = 1,
) -> Tensor:
    width = features[-1].shape[1] // 4
    y = block(w, module(w, f"{D}convs.0", features[-1], width, 3, dilation=dilation))
    y = module(w, f"{D}convs.1", y, width, 3, dilation=dilation)
    y = module(w, f"{D}conv_cat", torch.cat([features[-1], y], 1), width, 3)
    return w.conv(f"{D}conv_seg", y, classes, bias=True)


def danet(w: Weights, features: list[Tensor], classes: int) -> Tensor:
    p = module(w, f"{D}pam_in_conv", features[-1], 512, 3)
    query = rows(w.conv(f"{D}pam.query_project", p, 64, bias=True))
    key = rows(w.conv(f"{D}pam.key_project", p, 64, bias=True))
    value = rows(w.conv(f"{D}pam.value_project", p, 512, bias=True))
    p = w.gamma(f"{D}pam.gamma.scale", ()) * as_map(attend(query, key, value), p) + p
    p = module(w, f"{D}pam_out_conv", p, 512, 3)
    c = module(w, f"{D}cam_in_conv", features[-1], 512, 3)
    c = w.gamma(f"{D}cam.gamma.scale", ()) * channel_attention(c) + c
    c = module(w, f"{D}cam_out_conv", c, 512, 3)
    w.conv(f"{D}pam_conv_seg", p, classes, bias=True)
    w.conv(f"{D}cam_conv_seg", c, classes, bias=True)
    return w.conv(f"{D}conv_seg", p + c, classes, bias=True)


def fcn(w: Weights, features: list[Tensor], classes: int, dilation: int = 1) -> Tensor:
    return joined(w, features, classes, lambda _, x: x, dilation)


def ccnet(w: Weights, features: list[Tensor], classes: int, recurrence: int = 2) -> Tensor:
    def block(w: Weights, x: Tensor) -> Tensor:
        for _ in range(recurrence):
            query = w.conv(f"{D}cca.query_conv", x, 64, bias=True)
            key = w.conv(f"{D}cca.key_conv", x, 64, bias=True)
            value = w.conv(f"{D}cca.value_conv", x, 512, bias=True)
            x = w.gamma(f"{D}cca.gamma.scale", ()) * criss_cross(query, key, value) + x
        return x

    return joined(w, features, classes, block)


def nonlocal_(w: Weights, features: list[Tensor], classes: int) -> Tensor:
    def block(w: Weights, x: Tensor) -> Tensor:
        name = f"{D}nl_block"
        theta, phi, g = (
            rows(w.conv(f"{name}.{part}.conv", x, 256, bias=True)) for part in ("theta", "phi", "g")
        )
        y = as_map(attend(theta, phi, g, 256**-0.5), x)
        return x + module(w, f"{name}.conv_out", y, 512, rectify=False)

    return joined(w, features, classes, block)


def dnl(w: Weights, features: list[Tensor], classes: int) -> Tensor:
    def block(w: Weights, x: Tensor) -> Tensor:
        name = f"{D}dnl_block"
        theta, phi, g = (
            rows(w.conv(f"{name}.{part}.conv", x, 256, bias=True)) for part in ("theta", "phi", "g")
        )
        theta, phi = theta - theta.mean(1, keepdim=True), phi - phi.mean(1, keepdim=True)
        pairs = as_map(attend(theta, phi, g, 256**-0.5 / 0.05), x)
        mask = w.conv(f"{name}.conv_mask", x, 1, bias=True).flatten(2).softmax(-1)
        alone = (mask @ g).transpose(1, 2)[..., None]
        return x + module(w, f"{name}.conv_out", pairs + alone, 512, rectify=False)

    return joined(w, features, classes, block)


def gcnet(w: Weights, features: list[Tensor], classes: int) -> Tensor:
    def block(w: Weights, x: Tensor) -> Tensor:
        name = f"{D}gc_block"
        mask = w.conv(f"{name}.conv_mask", x, 1, bias=True).flatten(2).softmax(-1)
        context = (mask @ rows(x)).transpose(1, 2)[..., None]
        y = w.conv(f"{name}.channel_add_conv.0", context, 128, bias=True)
        scale = w.get(f"{name}.channel_add_conv.1.weight", (128, 1, 1), 0.5, 1.5)
        shift = w.get(f"{name}.channel_add_conv.1.bias", (128, 1, 1), -0.3, 0.3)
        y = F.layer_norm(y, (128, 1, 1), scale, shift).relu()
        return x + w.conv(f"{name}.channel_add_conv.3", y, 512, bias=True)

    return joined(w, features, classes, block)


def pspnet(
    w: Weights,
    features: list[Tensor],
    classes: int,
    corners: bool = False,
    bins: Sequence[int] = (1, 2, 3, 6),
) -> Tensor:
    parts, width = [features[-1]], features[-1].shape[1] // 4
    for i, size in enumerate(bins):
        pooled = F.adaptive_avg_pool2d(features[-1], size)
        parts.append(
            upsample(module(w, f"{D}psp_modules.{i}.1", pooled, width), features[-1], corners)
        )
    y = module(w, f"{D}bottleneck", torch.cat(parts, 1), width, 3)
    return w.conv(f"{D}conv_seg", y, classes, bias=True)


def deeplabv3(
    w: Weights, features: list[Tensor], classes: int, rates: Sequence[int] = (12, 24, 36)
) -> Tensor:
    x = features[-1]
    mean = module(w, f"{D}image_pool.1", x.mean((2, 3), keepdim=True), 512)
    parts = [mean.expand(-1, -1, *x.shape[2:]), module(w, f"{D}aspp_modules.0", x, 512)]
    for i, rate in enumerate(rates, start=1):
        parts.append(module(w, f"{D}aspp_modules.{i}", x, 512, 3, dilation=rate))
    y = module(w, f"{D}bottleneck", torch.cat(parts, 1), 512, 3)
    return w.conv(f"{D}conv_seg", y, classes, bias=True)


def separable(w: Weights, name: str, x: Tensor, width: int, dilation: int = 1) -> Tensor:
    channels = x.shape[1]
    kernel = w.get(f"{name}.depthwise_conv.conv.weight", (channels, 1, 3, 3), -0.7, 0.7)
    y = F.conv2d(x, kernel, padding=dilation, dilation=dilation, groups=channels)
    y = w.norm(f"{name}.depthwise_conv.bn", y).relu()
    return module(w, f"{name}.pointwise_conv", y, width)


def deeplabv3plus(
    w: Weights,
    features: list[Tensor],
    classes: int,
    rates: Sequence[int] = (12, 24, 36),
    low: int = 48,
    corners: bool = False,
) -> Tensor:
    x, width = features[-1], features[-1].shape[1] // 4
    mean = module(w, f"{D}image_pool.1", x.mean((2, 3), keepdim=True), width)
    parts = [mean.expand(-1, -1, *x.shape[2:]), module(w, f"{D}aspp_modules.0", x, width)]
    for i, rate in enumerate(rates, start=1):
        parts.append(separable(w, f"{D}aspp_modules.{i}", x, width, rate))
    y = module(w, f"{D}bottleneck", torch.cat(parts, 1), width, 3)
    early = module(w, f"{D}c1_bottleneck", features[0], low)
    y = torch.cat([upsample(y, early, corners), early], 1)
    y = separable(w, f"{D}sep_bottleneck.1", separable(w, f"{D}sep_bottleneck.0", y, width), width)
    return w.conv(f"{D}conv_seg", y, classes, bias=True)


def upernet(w: Weights, features: list[Tensor], classes: int, corners: bool = False) -> Tensor:
    width, last = features[-1].shape[1] // 4, features[-1]
    parts = [last]
    for i, size in enumerate((1, 2, 3, 6)):
        pooled = module(w, f"{D}psp_modules.{i}.1", F.adaptive_avg_pool2d(last, size), width)
        parts.append(upsample(pooled, last, corners))
    maps = [module(w, f"{D}lateral_convs.{i}", x, width) for i, x in enumerate(features[:-1])]
    maps.append(module(w, f"{D}bottleneck", torch.cat(parts, 1), width, 3))
    for i in (2, 1, 0):
        maps[i] = maps[i] + upsample(maps[i + 1], maps[i], corners)
    outs = [module(w, f"{D}fpn_convs.{i}", maps[i], width, 3) for i in range(3)] + [maps[3]]
    y = torch.cat([upsample(out, outs[0], corners) for out in outs], 1)
    y = module(w, f"{D}fpn_bottleneck", y, width, 3)
    return w.conv(f"{D}conv_seg", y, classes, bias=True)


def twice(w: Weights, name: str, x: Tensor, width: int) -> Tensor:
    return module(w, f"{name}.1", module(w, f"{name}.0", x, width), width)


def isa(w: Weights, features: list[Tensor], classes: int) -> Tensor:
    def relation(name: str, x: Tensor) -> Tensor:
        query = rows(twice(w, f"{D}{name}.query_project", x, 256))
        key = rows(twice(w, f"{D}{name}.key_project", x, 256))
        value = rows(w.conv(f"{D}{name}.value_project", x, 512, bias=True))
        y = as_map(attend(query, key, value, 256**-0.5), x)
        return module(w, f"{D}{name}.output_project", y, 512)

    x = module(w, f"{D}in_conv", features[-1], 512, 3)
    y = interlaced(x, partial(relation, "global_relation"), partial(relation, "local_relation"))
    y = module(w, f"{D}out_conv", torch.cat([y, x], 1), 512)
    return w.conv(f"{D}conv_seg", y, classes, bias=True)


def ann(w: Weights, features: list[Tensor], classes: int) -> Tensor:
    def averages(x: Tensor) -> Tensor:
        return torch.cat([rows(F.adaptive_avg_pool2d(x, s)) for s in (1, 3, 6, 8)], 1)

    def block(name: str, x: Tensor, low: Tensor, width: int) -> Tensor:
        query = module(w, f"{name}.query_project", x, 256)
        key = module(w, f"{name}.key_project", low, 256)
        value = w.conv(f"{name}.value_project", low, 256, bias=True)
        y = attend(rows(query), averages(key), averages(value), 256**-0.5)
        return w.conv(f"{name}.out_project", as_map(y, x), width, bias=True)

    low, x = features[-2:]
    y = torch.cat([block(f"{D}fusion.stages.0", x, low, 2048), x], 1)
    x = module(
        w, f"{D}bottleneck", module(w, f"{D}fusion.bottleneck", y, 2048, rectify=False), 512, 3
    )
    name = f"{D}context.stages.0"
    module(w, f"{name}.key_project", x, 256)
    for key in [k for k in w.tensors if k.startswith(f"{name}.key_project")]:  # one module
        w.tensors[key.replace("key_project", "query_project")] = w.tensors[key]
    y = torch.cat([block(name, x, x, 512), x], 1)
    return w.conv(f"{D}conv_seg", module(w, f"{D}context.bottleneck", y, 512), classes, bias=True)


def emanet(w: Weights, features: list[Tensor], classes: int) -> Tensor:
    x = module(w, f"{D}ema_in_conv", features[-1], 512, 3)
    inner = w.conv(f"{D}ema_mid_conv.conv", x, 512, bias=True).flatten(2)
    bases = F.normalize(w.get(f"{D}ema_module.bases", (1, 512, 64), -1, 1), dim=1)
    w.tensors[f"{D}ema_module.bases"] = bases
    for _ in range(3):
        shares = torch.einsum("bcn,bck->bnk", inner, bases).softmax(2)
        bases = torch.einsum("bcn,bnk->bck", inner, F.normalize(shares, p=1, dim=1))
        bases = F.normalize(bases, dim=1)
    y = torch.einsum("bck,bnk->bcn", bases, shares).reshape(x.shape).relu()
    y = (x + module(w, f"{D}ema_out_conv", y, 512, rectify=False)).relu()
    y = module(w, f"{D}bottleneck", y, 256, 3)
    y = module(w, f"{D}conv_cat", torch.cat([features[-1], y], 1), 256, 3)
    return w.conv(f"{D}conv_seg", y, classes, bias=True)


def encnet(w: Weights, features: list[Tensor], classes: int) -> Tensor:
    x = module(w, f"{D}bottleneck", features[-1], 512, 3)
    name = f"{D}enc_module"
    y = rows(module(w, f"{name}.encoding_project", x, 512))[:, :, None]  # (B, N, 1, C)
    words = w.get(f"{name}.encoding.0.codewords", (32, 512), -0.5, 0.5)
    smoothing = w.get(f"{name}.encoding.0.scale", (32,), -0.05, 0)
    residuals = y - words
    shares = (smoothing * residuals.square().sum(-1)).softmax(-1)
    codes = (shares[..., None] * residuals).sum(1)  # (B, 32, C)
    encoding = w.norm(f"{name}.encoding.1", codes).relu().mean(1)
    gates = w.linear(f"{name}.fc.0", encoding, 512).sigmoid()
    w.linear(f"{D}se_layer", encoding, classes)
    x = (x + x * gates[:, :, None, None]).relu()
    return w.conv(f"{D}conv_seg", x, classes, bias=True)


def ocr(w: Weights, features: list[Tensor], classes: int) -> Tensor:
    coarse = module(w, f"{D}0.convs.0", features[2], 256, 3)
    coarse = w.conv(f"{D}0.conv_seg", coarse, classes, bias=True)
    x = module(w, f"{D}1.bottleneck", features[3], 512, 3)
    regions = (coarse.flatten(2).softmax(-1) @ rows(x)).transpose(1, 2)[..., None]
    name = f"{D}1.object_context_block"
    query = rows(twice(w, f"{name}.query_project", x, 256))
    key = rows(twice(w, f"{name}.key_project", regions, 256))
    value = rows(module(w, f"{name}.value_project", regions, 256))
    context = module(w, f"{name}.out_project", as_map(attend(query, key, value, 1 / 16), x), 512)
    y = module(w, f"{name}.bottleneck", torch.cat([context, x], 1), 512)
    return w.conv(f"{D}1.conv_seg", y, classes, bias=True)


HEADS = {
    "ann": ann,
    "ccnet": ccnet,
    "danet": danet,
    "deeplabv3": deeplabv3,
    "deeplabv3plus": deeplabv3plus,
    "dnl": dnl,
    "emanet": emanet,
    "encnet": encnet,
    "fcn": fcn,
    "gcnet": gcnet,
    "isa": isa,
    "nonlocal": nonlocal_,
    "ocr": ocr,
    "pspnet": pspnet,
    "upernet": upernet,
}
