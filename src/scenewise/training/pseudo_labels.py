r"""Training on images without labels: the teacher's pseudo-labels, CutMix and the loss's weight.

FixMatch (Sohn et al., NeurIPS 2020, https://arxiv.org/abs/2001.07685) for segmentation, as UniMatch
(Yang et al., CVPR 2023, https://arxiv.org/abs/2208.09910) has it: what the teacher predicts with
confidence on a weakly changed window is the label of the same window with strong changes,

.. math:: L = L_\mathrm{labelled} + w \frac{1}{|S|} \sum_{i \in S}
    -\log \mathrm{softmax}(s_i)[\arg\max_k p_{ik}], \quad S = \{i : \max_k p_{ik} \ge \tau\}

with :math:`s` the student's logits on the strong view and :math:`p` the teacher's probabilities on
the weak one. Two things differ from these papers. The teacher is an exponential moving average of
the student (Tarvainen and Valpola, NeurIPS 2017, https://arxiv.org/abs/1703.01780), as in UniMatch
V2 (https://arxiv.org/abs/2410.10777). The mean is over the confident pixels, not over all; so that
few pixels do not count much at first, the weight :math:`w` rises from 0.

Legend: B images, K classes, H x W pixels.
"""

import torch
from torch import Tensor

from scenewise.attention.kernels.precision import upcast
from scenewise.models.segmenter import Segmenter


def pseudo_labels(
    teacher: Tensor, known: Tensor, *, threshold: float = 0.95, ignore_index: int = 255
) -> Tensor:
    """The most probable class of each pixel where the teacher is sure of it, else ``ignore_index``.

    Args:
        teacher: logits (B, K, H, W) of the weak view; no gradient flows into them.
        known: bool (B, H, W), false in the padding.
        threshold: the least softmax probability of a pixel that counts, 0 to 1.
        ignore_index: id of the other pixels.

    Returns:
        int64 (B, H, W).

    >>> teacher = torch.tensor([[[[4.0, 1.0, 0.0]], [[0.0, 0.0, 9.0]]]])  # 0.98, 0.73, padding
    >>> pseudo_labels(teacher, torch.tensor([[[True, True, False]]])).tolist()
    [[[0, 255, 255]]]
    """
    confidence, labels = upcast(teacher.detach()).softmax(1).max(1)  # (B, H, W) each
    return labels.where(known & (confidence >= threshold), ignore_index)


@torch.no_grad()
def taught_labels(
    teacher: Segmenter,
    images: Tensor,
    known: Tensor,
    *,
    threshold: float = 0.95,
    ignore_index: int = 255,
) -> Tensor:
    """:func:`pseudo_labels` of what a network in evaluation mode predicts.

    Logits are upsampled for one image at a time, which bounds the memory.

    Args:
        teacher: the network; nothing in it changes.
        images: normalised weak views (B, C, H, W).
        known: bool (B, H, W), false in the padding.
        threshold: the least probability of a pixel that counts.
        ignore_index: id of the other pixels.

    Returns:
        int64 (B, H, W).
    """
    output, size = teacher.low_res(images)
    height, width = images.shape[2:]
    rows = []
    for scores, inside in zip(output.logits, known, strict=True):  # (K, h, w), (H, W)
        logits = teacher.upsample(upcast(scores[None]), size)[..., :height, :width]
        rows.append(
            pseudo_labels(logits, inside[None], threshold=threshold, ignore_index=ignore_index)
        )
    return torch.cat(rows)


def cut_mix(values: Tensor, boxes: Tensor) -> Tensor:
    """Each item with a box of pixels of the next item; the last gets those of the first.

    CutMix (Yun et al., ICCV 2019, https://arxiv.org/abs/1905.04899). Images, labels and masks of
    known pixels that are mixed with the same boxes stay together.

    Args:
        values: (B, ..., H, W).
        boxes: int64 (B, 4), top, left, height and width; a height of 0 mixes nothing.

    Returns:
        A new tensor of the same shape.

    >>> boxes = torch.tensor([[0, 1, 1, 2], [0, 0, 0, 0]])
    >>> cut_mix(torch.tensor([[[1, 1, 1]], [[2, 2, 2]]]), boxes)
    tensor([[[1, 2, 2]],
            [[2, 2, 2]]])
    """
    rows, columns = (torch.arange(size, device=values.device) for size in values.shape[-2:])
    top, left, height, width = (boxes[:, k, None, None] for k in range(4))  # (B, 1, 1) each
    inside = (rows[:, None] >= top) & (rows[:, None] < top + height)  # (B, H, 1)
    inside = inside & (columns >= left) & (columns < left + width)  # (B, H, W)
    inside = inside.view(len(values), *[1] * (values.ndim - 3), *inside.shape[1:])
    return values.roll(-1, 0).where(inside, values)


def ramp(step: int, steps: int) -> float:
    """A factor that rises linearly to 1 over the first ``steps`` steps, counted from 0.

    >>> [ramp(step, 4) for step in (0, 1, 3, 9)]
    [0.25, 0.5, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / max(1, steps))
