"""Other projects' layers, rewritten from descriptions of their files.

A network here is a function of a :class:`Weights` and an image. A layer asks the Weights for its
tensors by the name they have in that project's files; at the first call they are random, so running
a network once both returns its logits and fills its state dict.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class Weights:
    """Random tensors by name, and the layers that use them.

    Args:
        abn: norms are InPlaceABN's: scale |weight| + 1e-5, weights of both signs, no counter.
        tracked: norms have ``num_batches_tracked``.
    """

    def __init__(self, *, abn: bool = False, tracked: bool = True, seed: int = 0) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.abn, self.tracked = abn, tracked and not abn
        self.generator = torch.Generator().manual_seed(seed)

    def get(self, name: str, shape: Sequence[int], low: float, high: float) -> Tensor:
        if name not in self.tensors:
            values = torch.empty(tuple(shape)).uniform_(low, high, generator=self.generator)
            self.tensors[name] = values
        return self.tensors[name]

    def conv(
        self,
        name: str,
        x: Tensor,
        outputs: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = False,
    ) -> Tensor:
        inputs = x.shape[1]
        bound = (4 / (inputs * kernel**2)) ** 0.5
        weight = self.get(f"{name}.weight", (outputs, inputs, kernel, kernel), -bound, bound)
        shift = self.get(f"{name}.bias", (outputs,), -0.3, 0.3) if bias else None
        padding = dilation * (kernel // 2)
        return F.conv2d(x, weight, shift, stride, padding, dilation)

    def linear(self, name: str, x: Tensor, outputs: int) -> Tensor:
        inputs = x.shape[-1]
        bound = (3 / inputs) ** 0.5
        weight = self.get(f"{name}.weight", (outputs, inputs), -bound, bound)
        return F.linear(x, weight, self.get(f"{name}.bias", (outputs,), -0.3, 0.3))

    def norm(self, name: str, x: Tensor) -> Tensor:
        count = x.shape[1]
        weight = self.get(f"{name}.weight", (count,), -1.2 if self.abn else 0.4, 1.2)
        bias = self.get(f"{name}.bias", (count,), -0.3, 0.3)
        mean = self.get(f"{name}.running_mean", (count,), -0.3, 0.3)
        var = self.get(f"{name}.running_var", (count,), 0.5, 1.5)
        if self.tracked:
            self.tensors[f"{name}.num_batches_tracked"] = torch.tensor(7)
        scale = weight.abs() + 1e-5 if self.abn else weight
        view = (1, -1) + (1,) * (x.ndim - 2)
        normal = (x - mean.view(view)) / (var.view(view) + 1e-5).sqrt()
        return normal * scale.view(view) + bias.view(view)

    def gamma(self, name: str, shape: Sequence[int] = (1,)) -> Tensor:
        return self.get(name, shape, 0.4, 0.9)


def resnet(
    w: Weights,
    prefix: str,
    x: Tensor,
    *,
    stem: str,
    depth: int = 50,
    last: Sequence[int] = (2, 4, 4),
    third_first: int = 1,
    stride16: bool = False,
    stride32: bool = False,
    ceil: bool = False,
) -> list[Tensor]:
    """The four stages.

    ``last`` are the dilations of the fourth stage's blocks, ``third_first`` that of the third
    stage's first block; ``stride16`` and ``stride32`` are mmsegmentation's d16 and d32. In the two
    convolutions of a ResNet-18's block, mmsegmentation dilates the first.
    """
    x = _stem(w, prefix, x, stem)
    x = F.max_pool2d(x, 3, 2, 1, ceil_mode=ceil)
    blocks = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}[depth]
    stages = []
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            halving = (2, 3, 4) if stride32 else (2, 3) if stride16 else (2,)
            stride = 2 if block == 0 and stage in halving else 1
            dilation = 1
            if stage == 3 and stage not in halving:
                dilation = third_first if block == 0 else 2
            if stage == 4 and not stride32:
                dilation = last[block % len(last)]
            name = f"{prefix}layer{stage}.{block}"
            if depth == 18:
                x = _basic(w, name, x, 32 * 2**stage, stride, dilation, block == 0 and stage > 1)
            else:
                x = _bottleneck(w, name, x, 32 * 2**stage, stride, dilation, block == 0)
        stages.append(x)
    return stages


def _stem(w: Weights, prefix: str, x: Tensor, stem: str) -> Tensor:
    if stem == "plain":
        x = w.conv(f"{prefix}conv1", x, 64, 7, stride=2)
        return w.norm(f"{prefix}bn1", x).relu()
    names, widths = {
        "mmseg": (["stem.0", "stem.1", "stem.3", "stem.4", "stem.6", "stem.7"], (32, 32, 64)),
        "encoding": (["conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1"], (64, 64, 128)),
        "semseg": (
            ["layer0.0", "layer0.1", "layer0.3", "layer0.4", "layer0.6", "layer0.7"],
            (64, 64, 128),
        ),
        "mit": (["conv1", "bn1", "conv2", "bn2", "conv3", "bn3"], (64, 64, 128)),
        "openseg": (
            [f"resinit.{part}" for part in ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3")],
            (64, 64, 128),
        ),
    }[stem]
    for index, width in enumerate(widths):
        conv, norm = names[2 * index : 2 * index + 2]
        x = w.conv(prefix + conv, x, width, 3, stride=2 if index == 0 else 1)
        x = w.norm(prefix + norm, x).relu()
    return x


def _bottleneck(
    w: Weights, name: str, x: Tensor, width: int, stride: int, dilation: int, first: bool
) -> Tensor:
    y = w.norm(f"{name}.bn1", w.conv(f"{name}.conv1", x, width)).relu()
    y = w.conv(f"{name}.conv2", y, width, 3, stride=stride, dilation=dilation)
    y = w.norm(f"{name}.bn2", y).relu()
    y = w.norm(f"{name}.bn3", w.conv(f"{name}.conv3", y, 4 * width))
    if first:
        shortcut = w.conv(f"{name}.downsample.0", x, 4 * width, stride=stride)
        x = w.norm(f"{name}.downsample.1", shortcut)
    return (y + x).relu()


def _basic(
    w: Weights, name: str, x: Tensor, width: int, stride: int, dilation: int, first: bool
) -> Tensor:
    y = w.conv(f"{name}.conv1", x, width, 3, stride=stride, dilation=dilation)
    y = w.norm(f"{name}.bn1", y).relu()
    y = w.norm(f"{name}.bn2", w.conv(f"{name}.conv2", y, width, 3))
    if first:
        shortcut = w.conv(f"{name}.downsample.0", x, width, stride=stride)
        x = w.norm(f"{name}.downsample.1", shortcut)
    return (y + x).relu()


def upsample(x: Tensor, like: Tensor, corners: bool) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=corners)


def rows(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, N, C)."""
    return x.flatten(2).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float = 1.0) -> Tensor:
    """(B, Nq, D), (B, Nk, D), (B, Nk, C) -> (B, Nq, C)."""
    return ((query @ key.transpose(1, 2)) * scale).softmax(-1) @ value


def as_map(x: Tensor, like: Tensor) -> Tensor:
    """(B, N, C) -> (B, C, H, W)."""
    return x.transpose(1, 2).reshape(x.shape[0], -1, *like.shape[2:])


def channel_attention(x: Tensor) -> Tensor:
    flat = x.flatten(2)
    energy = flat @ flat.transpose(1, 2)
    reversed_ = energy.max(-1, keepdim=True).values - energy
    return (reversed_.softmax(-1) @ flat).reshape(x.shape)


def criss_cross(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention over the pixels of the same row or column, as dense attention with a mask."""
    height, width = query.shape[2:]
    row = torch.arange(height).repeat_interleave(width)
    column = torch.arange(width).repeat(height)
    near = (row[:, None] == row) | (column[:, None] == column)
    energy = rows(query) @ rows(key).transpose(1, 2)
    weights = energy.masked_fill(~near, float("-inf")).softmax(-1)
    return as_map(weights @ rows(value), query)


def interlaced(x: Tensor, far: object, near: object, tile: int = 8) -> Tensor:
    """Attention over pixels with the same position in their tile, then over those of one tile.

    ``far`` and ``near`` map the pixels of a group, (groups, C, h, w), to the same shape.
    """
    height, width = x.shape[2:]
    down, right = -height % tile, -width % tile
    x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
    y = torch.empty_like(x)
    for i in range(tile):
        for j in range(tile):
            y[:, :, i::tile, j::tile] = far(x[:, :, i::tile, j::tile])  # type: ignore[operator]
    z = torch.empty_like(y)
    for i in range(0, x.shape[2], tile):
        for j in range(0, x.shape[3], tile):
            part = (..., slice(i, i + tile), slice(j, j + tile))
            z[part] = near(y[part])  # type: ignore[operator]
    top, left = down // 2, right // 2
    return z[:, :, top : top + height, left : left + width]
