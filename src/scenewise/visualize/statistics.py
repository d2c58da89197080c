"""Attention statistics: entropy and distance, attention by class, and ablation of a block.

Attention is computed in groups of a few million weights, never for all pairs of pixels at once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenewise.data.images import ImageLike
from scenewise.errors import UserError
from scenewise.inference.predictor import Predictor
from scenewise.visualize.attention_maps import (
    Place,
    PositionMaps,
    main_input,
    modules_by_name,
    uncompiled,
)

_GROUP = 2**22  # attention weights at a time: 16 MB in float32


class Spread(NamedTuple):
    """How far attention spreads, for every ``step``-th pixel: both (B, rows, columns).

    Attributes:
        entropy: of the attention, in nats; log N if it is uniform over N pixels.
        distance: mean distance to the attended pixels, in cells of the block's input.
    """

    entropy: Tensor
    distance: Tensor


class Ablation(NamedTuple):
    """Predictions with and without a block.

    Attributes:
        labels: (H, W), with the block.
        without: (H, W), with the block replaced by its input.
        difference: (K,), pixels of each class without the block minus those with it.
    """

    labels: Tensor
    without: Tensor
    difference: Tensor


def _entropy(rows: Tensor) -> Tensor:
    """Entropy of attention rows (..., H, W), in nats: (...).

    Rows need not sum to 1; negative weights (dot-product non-local blocks) count as 0.

    >>> _entropy(torch.tensor([[0.5, 0.5], [0.0, 0.0]])).exp()
    tensor(2.)
    """
    weights = rows.flatten(-2).clamp(min=0)
    weights = weights / weights.sum(-1, keepdim=True)
    return -torch.xlogy(weights, weights).sum(-1)  # xlogy: 0 log 0 = 0


def _mean_distance(rows: Tensor, at: list[Place], size: Place) -> Tensor:
    """Mean distance from places to the pixels they attend to, weighted by attention.

    Args:
        rows: (B, P, h, w) attention of P places.
        at: the P places, (row, column) in features of ``size``.
        size: (H, W); the keys may be pooled to a smaller (h, w) over the same area.

    Returns:
        (B, P), in cells of ``size``.

    >>> rows = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.0, 0.5]]).expand(1, 1, 2, 3)
    >>> _mean_distance(rows, [(0, 0)], (2, 3))
    tensor([[1.1180]])
    """
    places = torch.tensor(at, dtype=rows.dtype, device=rows.device)
    deltas = []
    for axis in (0, 1):
        scale = size[axis] / rows.shape[2 + axis]
        keys = (torch.arange(rows.shape[2 + axis]).to(places) + 0.5) * scale - 0.5  # centres
        deltas.append(keys - places[:, axis, None])  # (P, h) and (P, w)
    distances = torch.hypot(deltas[0][:, :, None], deltas[1][:, None, :])  # (P, h, w)
    weights = rows.clamp(min=0)
    return (weights * distances).sum((2, 3)) / weights.sum((2, 3))


def spread(block: PositionMaps, *, step: int = 1, call: int = -1) -> Spread:
    """Entropy and mean distance of the attention of every ``step``-th pixel.

    Args:
        block: from :func:`~scenewise.visualize.attention_maps`.
        step: rows and columns from one examined pixel to the next.
        call: see :meth:`~scenewise.visualize.BlockMaps.before`.
    """
    x = block.before(call)
    size = _size(x)
    groups = _groups(block, step, call)
    parts = [(_entropy(rows), _mean_distance(rows, places, size)) for places, rows in groups]
    grid = (-1, len(range(0, size[0], step)), len(range(0, size[1], step)))
    return Spread(*(torch.cat(part, dim=1).reshape(grid) for part in zip(*parts, strict=True)))


def class_attention(
    block: PositionMaps, labels: Tensor, num_classes: int, *, step: int = 1, call: int = -1
) -> Tensor:
    """How the attention of each class is distributed over the classes.

    Args:
        block: from :func:`~scenewise.visualize.attention_maps`.
        labels: (B, H, W) or (H, W) class ids of any size that covers the same area; ids of
            ``num_classes`` and above have no class.
        num_classes: K.
        step: examine every ``step``-th pixel in rows and columns.
        call: see :meth:`~scenewise.visualize.BlockMaps.before`.

    Returns:
        (K, K): the mean share of the attention of pixels of class k that falls on each class; the
        diagonal is the share on the own class, to be compared with the class's share of the pixels.
        Rows of classes that do not occur are NaN. What a row lacks to 1 falls on pixels without a
        class.
    """
    own = _labels_at(labels, _size(block.before(call)))  # (B, H, W)
    total = torch.zeros(num_classes + 1, num_classes, dtype=torch.float64, device=own.device)
    count = torch.zeros(num_classes + 1, dtype=torch.float64, device=own.device)
    for places, rows in _groups(block, step, call):
        keys = _labels_at(labels, (rows.shape[2], rows.shape[3])).clamp(max=num_classes)
        of_class = F.one_hot(keys.flatten(1), num_classes + 1)[..., :num_classes].to(rows)
        mass = rows.flatten(2) @ of_class  # (B, P, K)
        row, column = torch.tensor(places, device=own.device).unbind(1)
        query = own[:, row, column].clamp(max=num_classes).expand(len(rows), -1).flatten()
        total.index_add_(0, query, mass.flatten(0, 1).to(total))
        count.index_add_(0, query, torch.ones_like(query, dtype=count.dtype))
    return (total / count[:, None])[:num_classes]


class AttentionSums(NamedTuple):
    """Sums over the examined pixels of each class, to be added over images: all (K,), float64.

    Attributes:
        pixels: how many pixels were examined.
        own: the share of their attention that falls on their own class.
        own_even: the same if attention were spread evenly.
        distance: the mean distance to the attended pixels, in cells of the block's input.
        distance_even: the same if attention were spread evenly.
    """

    pixels: Tensor
    own: Tensor
    own_even: Tensor
    distance: Tensor
    distance_even: Tensor

    def plus(self, other: "AttentionSums") -> "AttentionSums":
        """The sums over the images of both."""
        return AttentionSums(*(a + b for a, b in zip(self, other, strict=True)))


def attention_sums(
    block: PositionMaps, labels: Tensor, num_classes: int, *, step: int = 1, call: int = -1
) -> AttentionSums:
    """How much attention stays on the own class, and how far it reaches, as sums.

    Negative weights count as 0; pixels without a class or without any attention do not count.

    Args:
        block: from :func:`~scenewise.visualize.attention_maps`.
        labels: (B, H, W) or (H, W) class ids of any size that covers the same area; ids of
            ``num_classes`` and above have no class.
        num_classes: K.
        step: examine every ``step``-th pixel in rows and columns.
        call: see :meth:`~scenewise.visualize.BlockMaps.before`.
    """
    size = _size(block.before(call))
    own = _labels_at(labels, size)  # (B or 1, H, W)
    sums = torch.zeros(5, num_classes + 1, dtype=torch.float64, device=own.device)
    for places, rows in _groups(block, step, call):
        weights, even = rows.clamp(min=0), torch.ones_like(rows)  # (B, P, h, w)
        row, column = torch.tensor(places, device=own.device).unbind(1)
        query = own[:, row, column].clamp(max=num_classes).expand(len(rows), -1)  # (B, P)
        keys = _labels_at(labels, (rows.shape[2], rows.shape[3]))[:, None]  # (B or 1, 1, h, w)
        same = keys == query[..., None, None]
        attends = weights.sum((2, 3)) > 0
        values = (
            even[..., 0, 0],
            (weights * same).sum((2, 3)) / weights.sum((2, 3)),
            same.double().mean((2, 3)),
            _mean_distance(weights, places, size),
            _mean_distance(even, places, size),
        )
        for total, value in zip(sums, values, strict=True):
            total.index_add_(0, query[attends], value[attends].to(total))
    return AttentionSums(*sums[:, :num_classes].cpu())


def attended_shares(row: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The share of one pixel's attention (h, w) that falls on each class: (K,).

    Negative weights count as 0; what the shares lack to 1 falls on pixels without a class.

    >>> attended_shares(torch.tensor([[0.75, 0.25]]), torch.tensor([[1, 0]]), 2)
    tensor([0.2500, 0.7500])
    """
    weights = row.clamp(min=0).flatten()
    ids = _labels_at(labels.to(row.device), (row.shape[0], row.shape[1]))[0].flatten()
    totals = weights.new_zeros(num_classes + 1).index_add_(0, ids.clamp(max=num_classes), weights)
    return totals[:num_classes] / weights.sum()


def channel_contrast(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """How much higher each channel is on each class than on average.

    Args:
        features: (B, C, h, w).
        labels: (B, H, W) or (H, W) class ids; ids of ``num_classes`` and above are excluded.
        num_classes: K.

    Returns:
        (C, K): the channel's mean over the pixels of each class minus its mean over all pixels, in
        its standard deviations; NaN for classes that do not occur.

    >>> features = torch.tensor([[[[1.0, 1.0, 5.0, 5.0]]]])
    >>> channel_contrast(features, torch.tensor([[0, 0, 1, 1]]), 2)
    tensor([[-1.,  1.]])
    """
    ids = _labels_at(labels, _size(features)).expand(len(features), -1, -1).flatten()
    values = features.transpose(0, 1).flatten(1)  # (C, B N)
    kept = ids < num_classes
    of_class = F.one_hot(ids[kept], num_classes).to(values)
    means = values[:, kept] @ of_class / of_class.sum(0)
    deviation = values.std(1, correction=0).clamp(min=torch.finfo(values.dtype).tiny)
    return (means - values.mean(1, keepdim=True)) / deviation[:, None]


@contextmanager
def switched_off(model: nn.Module, name: str) -> Iterator[None]:
    """Inside the context, the block ``name`` of ``model`` returns its input unchanged.

    For a block with a residual factor this is the same as setting the factor to 0. The hook is
    removed afterwards, also after an error; a compiled model runs uncompiled inside.

    Raises:
        UserError: the module does not exist, or its output has another shape than its input.
    """

    def bypass(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        x = main_input(args)
        if x.shape != output.shape:
            raise UserError(
                f"block '{name}' maps {tuple(x.shape)} to {tuple(output.shape)}, so it cannot be "
                "switched off; choose one that keeps the shape"
            )
        return x

    modules = modules_by_name(model)
    if name not in modules:
        raise UserError(f"unknown block '{name}'; attention_maps lists the names")
    handle = modules[name].register_forward_hook(bypass)
    try:
        with uncompiled():
            yield
    finally:
        handle.remove()


def ablate(predictor: Predictor, image: ImageLike, name: str) -> Ablation:
    """Predict with and without the block ``name``; see :func:`switched_off`."""
    labels = predictor(image).labels
    with switched_off(predictor.model, name):
        without = predictor(image).labels
    count = len(predictor.model.classes)
    after, before = (torch.bincount(ids.flatten(), minlength=count) for ids in (without, labels))
    return Ablation(labels, without, after - before)


def _groups(block: PositionMaps, step: int, call: int) -> Iterator[tuple[list[Place], Tensor]]:
    """Places and their attention (B, P, h, w), at most ``_GROUP`` weights at a time."""
    if step < 1:
        raise UserError(f"step must be at least 1, not {step}")
    x = block.before(call)
    height, width = _size(x)
    places: list[Place] = [
        (row, column) for row in range(0, height, step) for column in range(0, width, step)
    ]
    size = max(1, _GROUP // (len(x) * height * width))
    for start in range(0, len(places), size):
        group = places[start : start + size]
        yield group, block.rows(group, call=call)


def _size(x: Tensor) -> tuple[int, int]:
    if x.ndim != 4:
        raise UserError(f"features must be (B, C, H, W), not {tuple(x.shape)}; take one frame")
    return x.shape[2], x.shape[3]


def _labels_at(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels (B, H, W) or (H, W), nearest-neighbour resized to ``size``: (B or 1, h, w)."""
    batch = labels if labels.ndim == 3 else labels[None]  # (B or 1, H, W)
    return F.interpolate(batch[:, None].double(), size, mode="nearest-exact")[:, 0].long()
