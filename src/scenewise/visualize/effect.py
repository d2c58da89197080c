"""What an attention block does to the prediction at a pixel: its class and scores without it.

An attention map shows what a block gathers, not whether that matters. The same pixel, predicted
again with the block switched off, shows this.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from scenewise.classes import Classes
from scenewise.data.images import ImageLike
from scenewise.inference.predictor import Prediction, Predictor
from scenewise.visualize.attention_maps import AttentionMaps, Place, attention_maps
from scenewise.visualize.statistics import switched_off

_HARDLY = 0.01  # of a score: below one percentage point, and with the same class, nothing moved


class Effect(NamedTuple):
    """The prediction at one pixel with a block and without it.

    Attributes:
        label, label_without: the class ids.
        score, score_without: the score of the predicted class, 0..1.
        moved: by how much the score of any class moves at most, 0..1.
    """

    label: int
    label_without: int
    score: float
    score_without: float
    moved: float

    @property
    def decides(self) -> bool:
        """Whether the class is another one without the block."""
        return self.label != self.label_without

    @property
    def matters(self) -> bool:
        """Whether the class changes, or a score by at least one percentage point."""
        return self.decides or self.moved >= _HARDLY

    def sentence(self, block: str, classes: Classes) -> str:
        """The effect in words.

        >>> classes = Classes(("shop", "car"), ((1, 1, 1), (2, 2, 2)))
        >>> Effect(0, 1, 0.96, 0.88, 0.84).sentence("pam", classes)
        'Without pam: "car" (88.0 %) instead of "shop" (96.0 %). The block decides here.'
        >>> Effect(0, 0, 0.96, 0.961, 0.001).sentence("pam", classes)
        'Without pam: still "shop" (96.1 % instead of 96.0 %). This block hardly matters here.'
        """
        was, now = (classes.names[k] for k in (self.label, self.label_without))
        if self.decides:
            return (
                f'Without {block}: "{now}" ({100 * self.score_without:.1f} %) instead of "{was}" '
                f"({100 * self.score:.1f} %). The block decides here."
            )
        text = (
            f'Without {block}: still "{was}" ({100 * self.score_without:.1f} % instead of '
            f"{100 * self.score:.1f} %)."
        )
        if self.matters:
            return f"{text} Scores move by up to {100 * self.moved:.1f} percentage points."
        return f"{text} This block hardly matters here."


class BlockEffect(NamedTuple):
    """What a block does: the effect at each given pixel, and the labels (H, W) without it."""

    pixels: list[Effect]
    without: Tensor


class Explained(NamedTuple):
    """A prediction, the attention recorded while it was made, and what each block does."""

    maps: AttentionMaps
    prediction: Prediction
    effects: dict[str, BlockEffect]

    def changed(self, name: str) -> float:
        """The share of the pixels that get another class without the block ``name``."""
        return float((self.effects[name].without != self.prediction.labels).double().mean())

    def sentence(self, name: str, index: int, classes: Classes) -> str:
        """What the block ``name`` does at pixel ``index``, in words."""
        if name not in self.effects:
            return f"{name} changes the size of its input, so it cannot be switched off."
        return self.effects[name].pixels[index].sentence(name, classes)


def effect(scores: Tensor, without: Tensor) -> Effect:
    """Compare the scores (K,) of a pixel with a block to those without it.

    >>> import torch
    >>> effect(torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5]))
    Effect(label=0, label_without=0, score=0.75, score_without=0.5, moved=0.25)
    """
    label, label_without = int(scores.argmax()), int(without.argmax())
    return Effect(
        label,
        label_without,
        float(scores[label]),
        float(without[label_without]),
        float((scores - without).abs().max()),
    )


def innermost(region: Tensor, side: int = 9) -> tuple[Place, float]:
    """The pixel of a region (H, W) with the most of it around, and that share; 0 if it is empty.

    >>> import torch
    >>> region = torch.zeros(20, 30, dtype=torch.bool)
    >>> region[5:14, 3:12] = True
    >>> innermost(region)
    ((9, 7), 1.0)
    """
    share = F.avg_pool2d(region[None].float(), side, stride=1, padding=side // 2)[0] * region
    best = int(share.argmax())
    return divmod(best, region.shape[1]), float(share.flatten()[best])


def explained(predictor: Predictor, image: ImageLike, at: Sequence[Place] = ()) -> Explained:
    """Predict an image, record its attention, and predict it again without each block.

    Blocks whose output has another shape than their input cannot be switched off; they have no
    effect listed.

    Args:
        predictor: of any model; one without attention has no effects.
        image: as ``predictor`` takes it.
        at: pixels as (row, column), inside the image.
    """
    with attention_maps(predictor.model) as maps:
        prediction, scores = predictor.with_scores(image, at)
    effects = {}
    for name, block in maps.blocks().items():
        if block.after().shape != block.before().shape:
            continue
        with switched_off(predictor.model, name):
            other, without = predictor.with_scores(image, at)
        pixels = [effect(*pair) for pair in zip(scores, without, strict=True)]
        effects[name] = BlockEffect(pixels, other.labels)
    return Explained(maps, prediction, effects)
