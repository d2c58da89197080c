"""EMANet, EncNet, PSANet, OCNet's first release and ASP-OCR, as their files are described."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models.convert.external import Weights, as_map, attend, resnet, rows, upsample
from tests.models.convert.external_others import abn, pair, twice


class Renamed(Weights):
    """Weights whose ResNet is stored under other names, as EMANet's sequence."""

    NAMES = (("conv1.", "0."), ("bn1.", "1."), *((f"layer{i}.", f"{i + 3}.") for i in (1, 2, 3, 4)))

    def stored(self, prefix: str) -> dict[str, Tensor]:
        tensors = {}
        for key, tensor in self.tensors.items():
            inner = key.removeprefix(prefix)
            pairs = [pair for pair in self.NAMES if key.startswith(prefix + pair[0])]
            new = pairs[0][1] + inner.removeprefix(pairs[0][0]) if pairs else inner
            tensors[prefix + new if key.startswith(prefix) else key] = tensor
        return tensors


def emanet(w: Weights, x: Tensor, classes: int) -> Tensor:
    def module(name: str, y: Tensor, width: int) -> Tensor:
        return pair(w, f"{name}.conv", f"{name}.bn", y, width, 3)

    deep = resnet(w, "extractor.", x, stem="encoding", last=(2, 8, 16))[-1]
    y = module("fc0", deep, 512)
    pixels = rows(w.conv("emau.conv1", y, 512, bias=True))  # (B, N, C)
    bases = w.get("emau.mu", (1, 512, 64), -0.1, 0.1)
    bases = bases / (1e-6 + bases.norm(dim=1, keepdim=True))
    w.tensors["emau.mu"] = bases
    for _ in range(3):
        shares = (pixels @ bases).softmax(2)  # (B, N, K)
        bases = pixels.transpose(1, 2) @ (shares / (1e-6 + shares.sum(1, keepdim=True)))
        bases = bases / (1e-6 + bases.norm(dim=1, keepdim=True))  # (B, C, K)
    z = as_map(shares @ bases.transpose(1, 2), y).relu()
    z = w.norm("emau.conv2.1", w.conv("emau.conv2.0", z, 512))
    y = module("fc1.0", (z + y).relu(), 256)
    return upsample(w.conv("fc2", y, classes, bias=True), x, True)


def encnet(w: Weights, x: Tensor, classes: int) -> Tensor:
    features = resnet(w, "pretrained.", x, stem="encoding")
    y = pair(w, "head.conv5.0", "head.conv5.1", features[-1], 512, 3)
    name = "head.encmodule.encoding"
    z = rows(pair(w, f"{name}.0", f"{name}.1", y, 512))
    words = w.get(f"{name}.3.codewords", (32, 512), -0.5, 0.5)
    scale = w.get(f"{name}.3.scale", (32,), -0.02, 0.0)
    residuals = z[:, :, None] - words  # (B, N, K, C)
    shares = (scale * residuals.square().sum(-1)).softmax(-1)
    codes = (shares[..., None] * residuals).sum(1)  # (B, K, C)
    encoding = w.norm(f"{name}.4", codes).relu().mean(1)
    gates = w.linear("head.encmodule.fc.0", encoding, 512).sigmoid()
    w.linear("head.encmodule.selayer", encoding, classes)
    y = (y + y * gates[:, :, None, None]).relu()
    aux = pair(w, "auxlayer.conv5.0", "auxlayer.conv5.1", features[2], 256, 3)
    w.conv("auxlayer.conv5.4", aux, classes, bias=True)
    return upsample(w.conv("head.conv6.1", y, classes, bias=True), x, True)


def psanet(w: Weights, x: Tensor, classes: int, *, mask: int = 5) -> Tensor:
    """Images have sides of 16 k + 1 pixels, so that halving the feature map keeps both ends."""
    features = resnet(w, "", x, stem="semseg", last=(4,), third_first=2)
    deep, half = features[-1], mask // 2
    gathered = []
    for part, collects in (("", True), ("_p", False)):
        y = pair(w, f"psa.reduce{part}.0", f"psa.reduce{part}.1", deep, 512)
        height, width = (n // 2 + 1 for n in y.shape[2:])
        y = F.interpolate(y, (height, width), mode="bilinear", align_corners=True)
        masks = pair(w, f"psa.attention{part}.0", f"psa.attention{part}.1", y, 512)
        masks = w.conv(f"psa.attention{part}.3", masks, mask * mask)
        energy = torch.zeros(height * width, height * width)  # source, target
        for row in range(height):  # the pixel that predicts, and each that its mask covers
            for column in range(width):
                for i in range(max(0, half - row), min(mask, height + half - row)):
                    for j in range(max(0, half - column), min(mask, width + half - column)):
                        own = row * width + column
                        other = (row + i - half) * width + column + j - half
                        value = masks[0, i * mask + j, row, column]
                        energy[(other, own) if collects else (own, other)] = value
        weights = energy.softmax(0)
        gathered.append((y.flatten(2) @ weights).view(y.shape))
    y = pair(w, "psa.proj.0", "psa.proj.1", torch.cat(gathered, 1), deep.shape[1])
    y = torch.cat([deep, upsample(y, deep, True)], 1)
    y = pair(w, "cls.0", "cls.1", y, 512, 3)
    w.conv("aux.4", pair(w, "aux.0", "aux.1", features[2], 256, 3), classes, bias=True)
    return upsample(w.conv("cls.4", y, classes, bias=True), x, True)


def _context(w: Weights, name: str, x: Tensor, keys: int, values: int, out: int) -> Tensor:
    """The first release's attention: one module for queries and keys, stored twice."""
    key = rows(abn(w, f"{name}.f_key", x, keys, bias=True))
    for part in ("0", "1"):
        for kind in ("weight", "bias", "running_mean", "running_var"):
            stored = w.tensors.get(f"{name}.f_key.{part}.{kind}")
            if stored is not None:
                w.tensors[f"{name}.f_query.{part}.{kind}"] = stored
    value = rows(w.conv(f"{name}.f_value", x, values, bias=True))
    return w.conv(f"{name}.W", as_map(attend(key, key, value, keys**-0.5), x), out, bias=True)


def ocnet_base(w: Weights, deep: Tensor, classes: int) -> Tensor:
    x = abn(w, "context", deep, 512, 3, bias=True)
    both = torch.cat([_context(w, "context.2.stages.0", x, 256, 256, 512), x], 1)
    y = abn(w, "context.2.conv_bn_dropout", both, 512, bias=True)
    return w.conv("cls", y, classes, bias=True)


def ocnet_asp(w: Weights, deep: Tensor, classes: int) -> Tensor:
    x = abn(w, "context", deep, 512, 3, bias=True)
    c = abn(w, "context.2.context", x, 256, 3, bias=True)
    inner = _context(w, "context.2.context.2.stages.0", F.max_pool2d(c, 2), 128, 256, 256)
    inner = upsample(inner, c, True)  # the context alone, without the features
    parts = [abn(w, "context.2.context.2.conv_bn_dropout", inner, 256, bias=True)]
    parts.append(abn(w, "context.2.conv2", x, 256))
    for i, rate in enumerate((12, 24, 36), start=3):
        parts.append(abn(w, f"context.2.conv{i}", x, 256, 3, dilation=rate))
    y = abn(w, "context.2.conv_bn_dropout", torch.cat(parts, 1), 512)
    return w.conv("cls", y, classes, bias=True)


def ocnet_pyramid(w: Weights, deep: Tensor, classes: int) -> Tensor:
    x = w.norm("layer5.1", w.conv("layer5.0", deep, 512, 3, bias=True))
    parts = [abn(w, "context.up_dr", x, 2048, bias=True)]
    for index, size in enumerate((1, 2, 3, 6)):
        name = f"context.stages.{index}"
        height, width = x.shape[2] // size, x.shape[3] // size
        bands = []
        for i in range(size):
            bottom = x.shape[2] if i == size - 1 else (i + 1) * height
            tiles = []
            for j in range(size):
                right = x.shape[3] if j == size - 1 else (j + 1) * width
                tile = x[:, :, i * height : bottom, j * width : right]
                tiles.append(_context(w, name, tile, 256, 512, 512))
            bands.append(torch.cat(tiles, 3))
        parts.append(torch.cat(bands, 2))
    y = abn(w, "context.conv_bn_dropout", torch.cat(parts, 1), 512, bias=True)
    return w.conv("cls", y, classes, bias=True)


def ocnet_baseline(w: Weights, deep: Tensor, classes: int) -> Tensor:
    return w.conv("layer6", abn(w, "layer5", deep, 512, 3, bias=True), classes, bias=True)


def asp_ocr(w: Weights, features: list[Tensor], classes: int) -> Tensor:
    coarse = abn(w, "dsn_head", features[2], 512, 3, bias=True)
    coarse = w.conv("dsn_head.3", coarse, classes, bias=True)
    deep, name = features[3], "asp_ocr_head"
    x = abn(w, f"{name}.context", deep, 256, 3, bias=True)
    regions = (coarse.flatten(2).softmax(-1) @ rows(x)).transpose(1, 2)[..., None]
    block = f"{name}.context.2.object_context_block"
    query = rows(twice(w, f"{block}.f_pixel", x, 128, True))
    key = rows(twice(w, f"{block}.f_object", regions, 128, True))
    value = rows(abn(w, f"{block}.f_down", regions, 128, bias=True))
    context = as_map(attend(query, key, value, 128**-0.5), x)
    parts = [abn(w, f"{block}.f_up", context, 256, bias=True)]
    parts.append(abn(w, f"{name}.conv2", deep, 256, bias=True))
    for i, rate in enumerate((12, 24, 36), start=3):
        parts.append(abn(w, f"{name}.conv{i}", deep, 256, 3, dilation=rate, bias=True))
    y = abn(w, f"{name}.conv_bn_dropout", torch.cat(parts, 1), 256, bias=True)
    return w.conv("head", y, classes, bias=True)
