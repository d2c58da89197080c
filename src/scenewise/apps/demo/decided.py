"""A pixel whose class an attention block decides: right with the block, wrong without it."""

from typing import NamedTuple

import torch
from torch import Tensor

from scenewise.data.scenes import Scenes
from scenewise.inference.predictor import Predictor
from scenewise.models.segmenter import Segmenter
from scenewise.visualize.attention_maps import Place
from scenewise.visualize.effect import explained, innermost

SCENES = 4  # of those that are shown


class Example(NamedTuple):
    """A pixel of a scene.

    Attributes:
        scene: index of the scene.
        at: (row, column).
        decided: whether a block that attends to pixels decides its class.
    """

    scene: int
    at: Place
    decided: bool


def decided_pixel(model: Segmenter, scenes: Scenes) -> Example:
    """A pixel of a context class that is right, and wrong without the position attention.

    The middle of the largest such region in the first scenes. Where no block decides any pixel, as
    after a few steps, a pixel of a context class; the figure then says that it is not decided.
    """
    best, score = None, 0.0
    for index in range(min(SCENES, len(scenes))):
        image, mask = scenes.read(index)
        shown = explained(Predictor(model, fast=False), image)
        for name in shown.maps.positions.keys() & shown.effects.keys():
            right = (shown.prediction.labels == mask) & _of_context(mask)
            flips = right & (shown.effects[name].without != mask)
            at, share = innermost(flips)
            if share > score:
                best, score = Example(index, at, True), share
    return best or Example(0, innermost(_of_context(scenes.read(0)[1]))[0], False)


def _of_context(mask: Tensor) -> Tensor:
    return torch.isin(mask, torch.tensor(Scenes.context_classes, dtype=mask.dtype))
