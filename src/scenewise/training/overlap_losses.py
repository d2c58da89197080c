"""Losses of the overlap of each class, which rare classes count in as much as frequent ones.

Legend: B images, K classes, H x W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from scenewise.attention.kernels.precision import upcast


def dice_loss(logits: Tensor, target: Tensor, *, ignore_index: int = 255) -> Tensor:
    r"""Soft Dice loss (Milletari et al., 3DV 2016), the mean over the classes in the target.

    .. math:: 1 - \frac{2 \sum_i p_i t_i}{\sum_i p_i^2 + \sum_i t_i}

    for each class, with its probability p and its indicator t over the labelled pixels of the
    batch.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W) int64 class ids, or ``ignore_index``.
        ignore_index: pixels of this id do not count.

    Returns:
        A scalar in 0..1; 0, with a gradient of 0, if no pixel is labelled.

    >>> logits = torch.tensor([[[[9.0, -9.0]], [[-9.0, 9.0]]]])  # sure of 0, then of 1
    >>> [round(dice_loss(logits, torch.tensor([[[0, k]]])).item(), 2) for k in (1, 0)]
    [0.0, 0.33]
    """
    classes = logits.shape[1]
    counted = target != ignore_index  # (B, H, W)
    ids = target.where(counted, 0)
    probabilities = upcast(logits).softmax(dim=1)  # (B, K, H, W)
    own = probabilities.gather(1, ids[:, None])[:, 0]  # (B, H, W), of the true class
    # Row by row: one sum over all pixels of a frequent class loses digits in float32, and ones
    # stop counting at 2**24
    rows = own.new_zeros(*ids.shape[:2], classes)  # (B, H, K)
    both = rows.scatter_add(2, ids, own * counted).sum((0, 1))  # (K,)
    shown = rows.scatter_add(2, ids, counted.to(rows.dtype)).sum((0, 1))
    sizes = (probabilities.square() * counted[:, None]).sum((0, 2, 3)) + shown
    dice = 2 * both / sizes.clamp_min(torch.finfo(sizes.dtype).tiny)
    present = shown > 0
    return ((1 - dice) * present).sum() / present.sum().clamp_min(1)


def lovasz_softmax(logits: Tensor, target: Tensor, *, ignore_index: int = 255) -> Tensor:
    r"""Lovász-softmax loss (Berman et al., CVPR 2018), the mean over the classes in the target.

    The Jaccard loss 1 - IoU of a class is a function of the set of its wrong pixels; this is that
    function's Lovász extension at the errors :math:`m_i = |t_i - p_i|`: sorted from the largest,

    .. math:: \sum_i m_i \, (J_i - J_{i-1})

    where :math:`J_i` is the Jaccard loss if the first i pixels are wrong. It takes K sorts of all
    labelled pixels of the batch.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W) int64 class ids, or ``ignore_index``.
        ignore_index: pixels of this id do not count.

    Returns:
        A scalar in 0..1; 0, with a gradient of 0, if no pixel is labelled.

    >>> logits = torch.tensor([[[[9.0, -9.0]], [[-9.0, 9.0]]]])  # sure of 0, then of 1
    >>> [round(lovasz_softmax(logits, torch.tensor([[[0, k]]])).item(), 2) for k in (1, 0)]
    [0.0, 0.5]
    """
    probabilities, shown, present = _labelled(logits, target, ignore_index)
    if len(probabilities) == 0:
        return probabilities.sum()  # 0 that depends on the logits
    errors, order = (shown - probabilities).abs().sort(dim=0, descending=True)  # (N, K)
    sorted_shown = shown.gather(0, order)
    total = shown.sum(0)  # (K,)
    intersection = total - sorted_shown.cumsum(0)  # if the first i pixels are wrong
    union = total + (1 - sorted_shown).cumsum(0)
    jaccard = 1 - intersection / union  # (N, K)
    steps = torch.diff(jaccard, dim=0, prepend=jaccard.new_zeros(1, jaccard.shape[1]))
    return ((errors * steps).sum(0) * present).sum() / present.sum().clamp_min(1)


def _labelled(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities and indicators (N, K) of the labelled pixels, and which classes (K,) occur."""
    counted = target != ignore_index  # (B, H, W)
    classes = logits.shape[1]
    rows = upcast(logits).permute(0, 2, 3, 1)[counted]  # (B, K, H, W) -> (N, K)
    shown = F.one_hot(target[counted], classes).to(rows.dtype)  # (N, K)
    return rows.softmax(1), shown, shown.any(0).to(rows.dtype)
