"""Prediction: labels of one image, with confidence, entropy and class probabilities."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from scenewise.errors import UserError
from scenewise.inference.row_blocks import blocks_of, label_from_logits, softmax_blocks
from scenewise.inference.sliding_window import Size

_SMALL = 4  # logits of a class have at most a quarter of the pixels, or are not kept
# Yields rows of the image and the scores (K, rows, W) there, from top to bottom.
_ScoreBlocks = Callable[[], Iterable[tuple[slice, Tensor]]]
_Again = Callable[[], Tensor] | None
# Scores (K, H, W) -> labels and their scores, (H, W) each.
Decide = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a :class:`~scenewise.Predictor` returns for an image, on the CPU.

    It unpacks into its first two attributes: ``labels, confidence = predictor(image)``.

    Attributes:
        labels: (H, W), int64, the class id of each pixel, at the size of the image.
        confidence: (H, W), the probability of that class, 0..1. It is the largest, unless the
            predictor has thresholds.

    >>> from scenewise import Predictor, create_model
    >>> model = create_model("fcn", num_classes=3, backbone="tiny")
    >>> prediction = Predictor(model)(torch.rand(3, 41, 67))
    >>> prediction.probabilities([2]).shape, prediction.entropy.shape
    (torch.Size([1, 41, 67]), torch.Size([41, 67]))
    """

    labels: Tensor
    confidence: Tensor
    score_blocks: _ScoreBlocks | None = None

    def __iter__(self) -> Iterator[Tensor]:
        yield self.labels
        yield self.confidence

    @cached_property
    def entropy(self) -> Tensor:
        """(H, W), float32: the entropy of the probabilities, divided by that of K equal ones.

        ``-sum_k p_k ln p_k / ln K``: 0 where one class has all the probability, 1 where all K have
        the same; 0 for K = 1. Computed on first use, see :meth:`probabilities`.
        """
        entropy = torch.zeros(self.labels.shape)
        for rows, scores in self._blocks():  # (K, rows, W)
            if len(scores) > 1:
                total = torch.special.entr(scores).sum(0)  # (rows, W)
                entropy[rows] = total.div_(math.log(len(scores))).clamp_(0, 1)
        return entropy

    def probabilities(self, classes: Sequence[int] | None = None) -> Tensor:
        """(C, H, W), float32: the probabilities of all classes, or of the ids ``classes``.

        They are computed anew at each call: upsampled from the network's logits where one pass at a
        lower resolution gave the labels. With windows, scales, the mirror image or a published
        protocol, and where the network's logits have the size of the image, the image is predicted
        once more, as the network is by then, unless the predictor was called with ``keep=True``.
        Of published protocols they are the scores that :meth:`scenewise.Predictor.scores`
        describes.

        Raises:
            UserError: an id that the model does not have.
        """
        ids = None if classes is None else torch.tensor(list(classes), dtype=torch.long)
        chosen: Tensor | None = None
        for rows, scores in self._blocks():  # (K, rows, W)
            if chosen is None:
                _check_ids(classes, len(scores))
                count = len(scores) if ids is None else len(ids)
                chosen = torch.empty(count, *self.labels.shape)
            chosen[:, rows] = (scores if ids is None else scores[ids]).float()
        assert chosen is not None
        return chosen

    def _blocks(self) -> Iterable[tuple[slice, Tensor]]:
        if self.score_blocks is None:
            raise UserError(
                "this prediction was made of labels and confidence alone and has no probabilities; "
                "take the one that a Predictor returns"
            )
        return self.score_blocks()


def _check_ids(classes: Sequence[int] | None, count: int) -> None:
    for number in classes or ():
        if not 0 <= number < count:
            raise UserError(f"the model has no class id {number}; give ids from 0 to {count - 1}")


def from_logits(
    logits: Tensor,
    again: _Again,
    size: Size,
    crop: Size,
    align_corners: bool,
    decide: Decide | None = None,
) -> Prediction:
    """The prediction of one pass, whose logits are never held at the size of the image.

    Args:
        logits: (K, h, w); kept if they are small.
        again: returns the scores (K, H, W) once more; None keeps the logits always.
        size: see :func:`~scenewise.inference.row_blocks.label_from_logits`.
        crop: the size of the image, see there.
        align_corners: see there.
        decide: labels the scores of a block of rows; by default the largest does.
    """
    if decide is None:
        labels, confidence = label_from_logits(logits, size, crop, align_corners=align_corners)
    else:
        blocks = softmax_blocks(logits, size, crop, align_corners=align_corners)
        parts = zip(*(decide(scores) for _, scores in blocks), strict=True)
        labels, confidence = map(torch.cat, parts)  # (H, W) each
    if again is not None and _SMALL * logits[0].numel() > labels.numel():
        return Prediction(labels.cpu(), confidence.cpu(), partial(_blocks_again, again))
    kept = partial(softmax_blocks, logits.cpu(), size, crop, align_corners=align_corners)
    return Prediction(labels.cpu(), confidence.cpu(), kept)


def largest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The class with the largest of the scores (K, H, W), and that score, (H, W) each."""
    confidence, labels = scores.max(0)
    return labels, confidence


def from_scores(scores: Tensor, again: _Again, decide: Decide = largest) -> Prediction:
    """The prediction of scores (K, H, W); they are kept if ``again`` is None."""
    labels, confidence = decide(scores)
    kept = partial(_blocks_again, again) if again else partial(blocks_of, scores.cpu())
    return Prediction(labels.cpu(), confidence.cpu(), kept)


def _blocks_again(again: Callable[[], Tensor]) -> Iterator[tuple[slice, Tensor]]:
    return blocks_of(again())
