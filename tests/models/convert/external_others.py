"""torchvision, CCNet, semseg and openseg, from the descriptions of their files."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models.convert.external import (
    Weights,
    as_map,
    attend,
    criss_cross,
    interlaced,
    resnet,
    rows,
    upsample,
)


def pair(
    w: Weights,
    conv: str,
    norm: str,
    x: Tensor,
    width: int,
    kernel: int = 1,
    *,
    dilation: int = 1,
    bias: bool = False,
    slope: float = 0.0,
) -> Tensor:
    y = w.norm(norm, w.conv(conv, x, width, kernel, dilation=dilation, bias=bias))
    return F.leaky_relu(y, slope)


def torchvision(
    w: Weights,
    x: Tensor,
    classes: int,
    *,
    deeplab: bool = False,
    auxiliary: bool = True,
    depth: int = 50,
) -> Tensor:
    features = resnet(w, "backbone.", x, stem="plain", depth=depth)
    y = features[-1]
    if deeplab:
        name = "classifier.0.convs"
        parts = [pair(w, f"{name}.0.0", f"{name}.0.1", y, 256)]
        for i, rate in enumerate((12, 24, 36), start=1):
            parts.append(pair(w, f"{name}.{i}.0", f"{name}.{i}.1", y, 256, 3, dilation=rate))
        mean = pair(w, f"{name}.4.1", f"{name}.4.2", y.mean((2, 3), keepdim=True), 256)
        parts.append(upsample(mean, y, False))
        project = "classifier.0.project"
        y = pair(w, f"{project}.0", f"{project}.1", torch.cat(parts, 1), 256)
        y = pair(w, "classifier.1", "classifier.2", y, 256, 3)
    else:
        y = pair(w, "classifier.0", "classifier.1", y, 512, 3)
    if auxiliary:
        z = pair(w, "aux_classifier.0", "aux_classifier.1", features[2], 256, 3)
        w.conv("aux_classifier.4", z, classes, bias=True)
    return upsample(w.conv("classifier.4", y, classes, bias=True), x, False)


def ccnet(w: Weights, x: Tensor, classes: int, *, recurrence: int = 2) -> Tensor:
    features = resnet(w, "", x, stem="mit", last=(4,), third_first=2, ceil=True)
    block = partial(pair, w, slope=0.01)
    y = block("head.conva.0", "head.conva.1", features[-1], 512, 3)
    for _ in range(recurrence):
        query = w.conv("head.cca.query_conv", y, 64, bias=True)
        key = w.conv("head.cca.key_conv", y, 64, bias=True)
        value = w.conv("head.cca.value_conv", y, 512, bias=True)
        y = w.gamma("head.cca.gamma") * criss_cross(query, key, value) + y
    y = block("head.convb.0", "head.convb.1", y, 512, 3)
    both = torch.cat([features[-1], y], 1)
    y = block("head.bottleneck.0", "head.bottleneck.1", both, 512, 3)
    z = block("dsn.0", "dsn.1", features[2], 512, 3, bias=True)
    w.conv("dsn.3", z, classes, bias=True)
    return upsample(w.conv("head.bottleneck.3", y, classes, bias=True), x, True)


def semseg(w: Weights, x: Tensor, classes: int, *, auxiliary: bool = True) -> Tensor:
    features = resnet(w, "", x, stem="semseg", last=(4,), third_first=2)
    parts = [features[-1]]
    for i, size in enumerate((1, 2, 3, 6)):
        name = f"ppm.features.{i}"
        pooled = F.adaptive_avg_pool2d(features[-1], size)
        parts.append(upsample(pair(w, f"{name}.1", f"{name}.2", pooled, 512), features[-1], True))
    y = pair(w, "cls.0", "cls.1", torch.cat(parts, 1), 512, 3)
    if auxiliary:
        z = pair(w, "aux.0", "aux.1", features[2], 256, 3)
        w.conv("aux.4", z, classes, bias=True)
    return upsample(w.conv("cls.4", y, classes, bias=True), x, True)


Openseg = Callable[[Weights, list[Tensor], int], Tensor]


def openseg(w: Weights, x: Tensor, classes: int, *, head: Openseg) -> Tensor:
    features = resnet(w, "backbone.", x, stem="openseg", ceil=True)
    return upsample(head(w, features, classes), x, True)


def abn(w: Weights, name: str, x: Tensor, width: int, kernel: int = 1, **options: object) -> Tensor:
    """``name.0``, ``name.1``: a convolution and InPlaceABN."""
    return pair(w, f"{name}.0", f"{name}.1", x, width, kernel, slope=0.01, **options)  # type: ignore[arg-type]


def twice(w: Weights, name: str, x: Tensor, width: int, bias: bool) -> Tensor:
    """``name.0`` to ``name.3``: twice a convolution and InPlaceABN."""
    y = pair(w, f"{name}.0", f"{name}.1", x, width, bias=bias, slope=0.01)
    return pair(w, f"{name}.2", f"{name}.3", y, width, bias=bias, slope=0.01)


def object_attention(w: Weights, name: str, x: Tensor, inner: int, pool: int = 1) -> Tensor:
    small = F.max_pool2d(x, pool) if pool > 1 else x
    query = rows(twice(w, f"{name}.f_query", small, inner, True))
    key = rows(twice(w, f"{name}.f_key", small, inner, True))
    value = rows(w.conv(f"{name}.f_value", small, inner, bias=True))
    y = as_map(attend(query, key, value, inner**-0.5), small)
    y = w.conv(f"{name}.W", y, x.shape[1], bias=True)
    return upsample(y, x, True) if pool > 1 else y


def base_oc(w: Weights, features: list[Tensor], classes: int) -> Tensor:
    x = abn(w, "oc_module_pre", features[-1], 512, 3, bias=True)
    context = object_attention(w, "oc_module.stages.0", x, 256)
    y = abn(w, "oc_module.conv_bn_dropout", torch.cat([context, x], 1), 512, bias=True)
    w.conv("dsn.2", abn(w, "dsn", features[2], 512, 3, bias=True), classes, bias=True)
    return w.conv("cls", y, classes, bias=True)


def asp_oc(w: Weights, features: list[Tensor], classes: int) -> Tensor:
    x = abn(w, "context", features[-1], 512, 3, bias=True)
    c = abn(w, "context.2.context", x, 256, 3, bias=True)
    c = object_attention(w, "context.2.context.2.stages.0", c, 128, pool=2)
    c = F.leaky_relu(w.norm("context.2.context.2.conv_bn_dropout.0", c), 0.01)
    parts = [c, abn(w, "context.2.conv2", x, 256)]
    for i, rate in enumerate((12, 24, 36), start=3):
        parts.append(abn(w, f"context.2.conv{i}", x, 256, 3, dilation=rate))
    y = abn(w, "context.2.conv_bn_dropout", torch.cat(parts, 1), 512)
    w.conv("dsn.2", abn(w, "dsn", features[2], 512, 3, bias=True), classes, bias=True)
    return w.conv("cls", y, classes, bias=True)


def isa(w: Weights, features: list[Tensor], classes: int) -> Tensor:
    def relation(name: str, x: Tensor) -> Tensor:
        name = f"isa_head.2.stages.0.{name}_range_sa"
        query = rows(twice(w, f"{name}.f_query", x, 256, False))
        key = rows(twice(w, f"{name}.f_key", x, 256, False))
        value = rows(w.conv(f"{name}.f_value", x, 512))
        y = as_map(attend(query, key, value, 256**-0.5), x)
        return abn(w, f"{name}.W", y, 512)

    x = abn(w, "isa_head", features[-1], 512, 3, bias=True)
    y = interlaced(x, partial(relation, "long"), partial(relation, "short"))
    y = abn(w, "isa_head.2.conv_bn", torch.cat([x, y], 1), 512)
    w.conv("dsn_head.3", abn(w, "dsn_head", features[2], 512, 3, bias=True), classes, bias=True)
    return w.conv("cls_head", y, classes, bias=True)


def ocr(w: Weights, features: list[Tensor], classes: int) -> Tensor:
    coarse = abn(w, "dsn_head", features[2], 512, 3, bias=True)
    coarse = w.conv("dsn_head.3", coarse, classes, bias=True)
    x = abn(w, "conv_3x3", features[3], 512, 3, bias=True)
    regions = (coarse.flatten(2).softmax(-1) @ rows(x)).transpose(1, 2)[..., None]
    name = "spatial_ocr_head.object_context_block"
    query = rows(twice(w, f"{name}.f_pixel", x, 256, True))
    key = rows(twice(w, f"{name}.f_object", regions, 256, True))
    value = rows(abn(w, f"{name}.f_down", regions, 256, bias=True))
    context = as_map(attend(query, key, value, 1 / 16), x)
    context = abn(w, f"{name}.f_up", context, 512, bias=True)
    both = torch.cat([context, x], 1)
    y = abn(w, "spatial_ocr_head.conv_bn_dropout", both, 512, bias=True)
    return w.conv("head", y, classes, bias=True)


OPENSEG = {"ocnet_base": base_oc, "ocnet_asp": asp_oc, "isa": isa, "ocr": ocr}
