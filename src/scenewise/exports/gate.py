"""The score gate: a file of lower precision is written only if its mIoU stays close enough."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from scenewise.errors import UserError
from scenewise.exports.trace import Graph
from scenewise.exports.verify import Engine

Precision = Literal["fp32", "fp16", "int8"]
Size = tuple[int, int]
Labeller = Callable[[Tensor], Tensor]


class Gate(NamedTuple):
    """What decides whether a file of lower precision is written.

    Attributes:
        score: takes a function from an image (C, H, W) to labels (H, W), and indices of validation
            images; returns their mIoU in points, 0..100, and the pixel accuracy of each.
        images: number of validation images.
        calibration: images (C, H, W), as their files hold them, whose activations set the ranges of
            int8; not used by fp16.
        max_drop: the largest loss of mIoU in points.
    """

    score: Callable[[Labeller, Sequence[int]], tuple[float, list[float]]]
    images: int
    calibration: Sequence[Tensor] = ()
    max_drop: float = 0.5


class Scores(NamedTuple):
    """mIoU in points on the validation images, of the float32 graph and of the written one."""

    before: float
    after: float

    def __str__(self) -> str:
        return f"mIoU {self.before:.2f} -> {self.after:.2f} points"


def graph_input(graph: Graph, image: Tensor, size: Size | None = None) -> Tensor:
    """The input of the graph for an image (C, H, W), resized bilinearly if the graph has a size.

    Returns:
        (1, C, h, w), normalised; with postprocessing (1, h, w, C), as image readers return.
    """
    images = image[None]  # (1, C, H, W)
    if size is not None and size != tuple(image.shape[1:]):
        resized = interpolate(images.float(), size, mode="bilinear", antialias=True)
        images = resized.round().to(image.dtype) if image.dtype == torch.uint8 else resized
    if graph.postprocess is None:
        return graph.model.normalize(images)
    return images.permute(0, 2, 3, 1).contiguous()  # (1, h, w, C)


def labeller(graph: Graph, run: Engine, size: Size | None = None) -> Labeller:
    """Labels (H, W) of an image (C, H, W) by a graph in its runtime; of the image's own size."""

    def label(image: Tensor) -> Tensor:
        output = run(graph_input(graph, image, size))
        labels = output if output.ndim == 3 else output.argmax(1)  # (1, h, w)
        if labels.shape[1:] != image.shape[1:]:
            shape = tuple(image.shape[1:])
            labels = interpolate(labels[:, None].float(), shape, mode="nearest-exact")[:, 0]
        return labels[0].long()  # (H, W)

    return label


def check_scores(scores: Scores, gate: Gate, precision: Precision) -> None:
    """Raise unless the loss is at most ``gate.max_drop`` points.

    >>> gate = Gate(lambda label, indices: (0.0, []), images=1)
    >>> check_scores(Scores(70.0, 69.5), gate, "int8")
    >>> check_scores(Scores(70.0, 68.0), gate, "int8")
    Traceback (most recent call last):
    scenewise.errors.UserError: int8 loses 2.00 points of mIoU (70.00 -> 68.00), more than ...
    """
    loss = scores.before - scores.after
    if not loss <= gate.max_drop:  # also true for NaN
        raise UserError(
            f"{precision} loses {loss:.2f} points of mIoU ({scores.before:.2f} -> "
            f"{scores.after:.2f}), more than --max-drop {gate.max_drop:g}, so nothing is written; "
            "give a larger --max-drop, other calibration images, or another precision"
        )
