"""Losses: cross-entropy over pixels, hard pixel mining, auxiliary losses and penalties of blocks.

Legend: B images, K classes, H x W pixels.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from scenewise.attention.kernels.precision import upcast

if TYPE_CHECKING:
    from scenewise.models.segmenter import SegmenterOutput


LossName = Literal["cross_entropy", "cross_entropy+dice", "cross_entropy+lovasz"]


class Loss(NamedTuple):
    """A loss to minimise, and its parts by name, unweighted, for the log."""

    total: Tensor
    parts: dict[str, Tensor]


class OverlapLoss(Protocol):
    """A loss of the overlap of classes, see :mod:`scenewise.training.overlap_losses`."""

    def __call__(self, logits: Tensor, target: Tensor, *, ignore_index: int) -> Tensor: ...


class OHEM(NamedTuple):
    """Which pixels count as hard: see :func:`ohem_cross_entropy`."""

    threshold: float = 0.7
    min_kept: int = 100_000


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    class_weights: Tensor | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """Mean of -log softmax(logits)[target] over the pixels that are not ignored.

    With class weights w it is sum_i w[t_i] loss_i / sum_i w[t_i], as in PyTorch. Unlike PyTorch's
    mean it is defined when every pixel is ignored: 0, with a gradient of 0. Half precision logits
    are converted to float32 first.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W) int64 class ids, or ``ignore_index``.
        class_weights: (K,), one factor for each class.
        ignore_index: pixels of this id do not count.

    Returns:
        A scalar.

    >>> logits = torch.zeros(1, 4, 1, 2)
    >>> target = torch.tensor([[[2, 255]]])
    >>> round(cross_entropy(logits, target).item(), 4)  # log 4
    1.3863
    """
    logits = upcast(logits)
    weights = None if class_weights is None else class_weights.to(logits)
    total = F.cross_entropy(
        logits, target, weight=weights, ignore_index=ignore_index, reduction="sum"
    )
    counted = target != ignore_index  # (B, H, W)
    if weights is None:
        divisor = counted.sum().to(logits.dtype)  # pixels
    else:
        divisor = (weights[target.where(counted, 0)] * counted).sum()  # 0: any valid index
    return total / divisor.where(divisor > 0, 1.0)  # no labelled pixel: 0 / 1


def ohem_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    threshold: float = 0.7,
    min_kept: int = 100_000,
    class_weights: Tensor | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """Cross-entropy over the hard pixels only (online hard example mining).

    A pixel is hard when the network gives its true class a probability of at most ``threshold``.
    When fewer than ``min_kept`` pixels of the batch are hard, the ``min_kept`` hardest count. CCNet
    (https://arxiv.org/abs/1811.11721) finds the threshold on scores of an eighth of the size; here
    it is found at full size, so it is exact.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W) int64 class ids, or ``ignore_index``.
        threshold: a probability, 0..1.
        min_kept: minimum number of pixels of the batch that count.
        class_weights: (K,), one factor for each class.
        ignore_index: pixels of this id do not count.

    Returns:
        A scalar; the mean over the kept pixels.

    >>> logits = torch.tensor([[[[4.0, 0.0]], [[0.0, 0.0]]]])  # an easy pixel and a hard one
    >>> target = torch.zeros(1, 1, 2, dtype=torch.int64)
    >>> round(ohem_cross_entropy(logits, target, min_kept=1).item(), 4)  # log 2
    0.6931
    """
    with torch.no_grad():
        loss = F.cross_entropy(upcast(logits), target, ignore_index=ignore_index, reduction="none")
        probability = loss.neg().exp().masked_fill(target == ignore_index, torch.inf)  # (B, H, W)
        limit = probability.new_tensor(threshold)
        if min_kept > 0 and probability.numel() > 0:
            rank = min(min_kept, probability.numel())  # kthvalue counts from 1
            limit = limit.maximum(probability.flatten().kthvalue(rank).values)
        hard = target.where(probability <= limit, ignore_index)  # (B, H, W)
    return cross_entropy(logits, hard, class_weights=class_weights, ignore_index=ignore_index)


def presence_loss(logits: Tensor, target: Tensor, *, ignore_index: int = 255) -> Tensor:
    """Binary cross-entropy over which classes an image shows: EncNet's semantic encoding loss.

    Args:
        logits: (B, K).
        target: (B, H, W) int64 class ids, or ``ignore_index``.
        ignore_index: pixels of this id show no class.

    Returns:
        A scalar, the mean over images and classes; 0 without images.

    >>> logits = torch.tensor([[9.0, -9.0, 0.0]])  # sure of class 0, sure against 1, unsure of 2
    >>> round(presence_loss(logits, torch.tensor([[[0, 255]]])).item(), 4)  # log 2 / 3
    0.2311
    """
    logits = upcast(logits)
    ids = target.where(target != ignore_index, logits.shape[1]).flatten(1)  # (B, H W); K: ignored
    shown = logits.new_zeros(logits.shape[0], logits.shape[1] + 1).scatter_(1, ids, 1.0)  # (B, K+1)
    shown = shown[:, :-1]  # without the ignored pixels
    total = F.binary_cross_entropy_with_logits(logits, shown, reduction="sum")
    return total / max(1, shown.numel())


def segmentation_loss(
    output: "SegmenterOutput",
    target: Tensor,
    weights: Mapping[str, float],
    *,
    class_weights: Tensor | None = None,
    ohem: OHEM | None = None,
    ignore_index: int = 255,
    overlap: OverlapLoss | None = None,
    upsample: Callable[[Tensor], Tensor] | None = None,
) -> Loss:
    """Main loss + weighted cross-entropies of the auxiliary logits + weighted penalties.

    DANet sums its three logits with weights 1, 1, 1; an auxiliary FCN head counts 0.4. Auxiliary
    logits of shape (B, K) get :func:`presence_loss`. Hard pixel mining is for the main logits only,
    as in CCNet.

    Args:
        output: what a Segmenter returns; logits of (B, K, H, W).
        target: (B, H, W) int64 class ids, or ``ignore_index``.
        weights: the weight of each of the auxiliary logits and of each penalty by its name; the
            main logits count 1.
        class_weights: (K,), one factor for each class, in every cross-entropy.
        ohem: count only hard pixels in the main loss.
        ignore_index: pixels of this id do not count.
        overlap: added to the main loss.
        upsample: brings low-resolution logits to the size of ``target``. Only one upsampled tensor
            is held at a time: it is recomputed in the backward pass.

    Raises:
        ValueError: auxiliary logits or a penalty have no weight.

    >>> from types import SimpleNamespace
    >>> logits = torch.zeros(1, 2, 1, 1)
    >>> output = SimpleNamespace(logits=logits, auxiliary={"fcn": logits}, penalties={})
    >>> loss = segmentation_loss(output, torch.zeros(1, 1, 1, dtype=torch.int64), {"fcn": 0.4})
    >>> round(loss.total.item(), 4), sorted(loss.parts)  # 1.4 log 2
    (0.9704, ['fcn', 'main'])
    """
    plain = partial(
        cross_entropy, target=target, class_weights=class_weights, ignore_index=ignore_index
    )
    hard = (
        plain
        if ohem is None
        else partial(
            ohem_cross_entropy,
            target=target,
            threshold=ohem.threshold,
            min_kept=ohem.min_kept,
            class_weights=class_weights,
            ignore_index=ignore_index,
        )
    )

    def of_main(logits: Tensor) -> Tensor:
        loss = hard(logits)
        return (
            loss if overlap is None else loss + overlap(logits, target, ignore_index=ignore_index)
        )

    main = of_upsampled(of_main, upsample, output.logits)
    auxiliary = {
        name: presence_loss(logits, target, ignore_index=ignore_index)
        if logits.ndim == 2
        else of_upsampled(plain, upsample, logits)
        for name, logits in output.auxiliary.items()
    } | dict(output.penalties)
    if missing := sorted(auxiliary.keys() - weights.keys()):
        raise ValueError(f"no loss weight for {missing}; weights are given for {sorted(weights)}")
    total = main
    for name, value in auxiliary.items():
        total = total + weights[name] * value
    return Loss(total, {"main": main, **auxiliary})


def of_upsampled(
    loss: Callable[[Tensor], Tensor], upsample: Callable[[Tensor], Tensor] | None, logits: Tensor
) -> Tensor:
    """``loss(upsample(logits))``, of which only ``logits`` is kept for the backward pass."""
    if upsample is None:
        return loss(logits)
    out: Tensor = checkpoint(
        lambda low_res: loss(upsample(low_res)),
        logits,
        use_reentrant=False,
        preserve_rng_state=False,
    )
    return out
