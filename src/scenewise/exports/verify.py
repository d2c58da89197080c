"""Compare an exported graph with its model."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from scenewise.errors import UserError
from scenewise.exports.trace import Graph, example, finish

_SIZES = ((2, 65, 97), (1, 120, 72))  # batch, height, width: as traced, and another
_TOLERANCE = 1e-4  # of the largest value; float32 runtimes stay below 1e-5


class Engine(Protocol):
    """A graph in its runtime: input tensor on the CPU -> output tensor on the CPU."""

    def __call__(self, images: Tensor) -> Tensor: ...


class Difference(NamedTuple):
    """How far a runtime is from PyTorch on one input.

    Attributes:
        shape: (batch, height, width).
        largest: absolute difference of two values. For labels: how far the logit of a label is
            below the largest of its pixel, which is above 0 only where two logits are close.
        relative: the same, divided by the largest value.
        agreement: share of pixels with the same label.
    """

    shape: tuple[int, int, int]
    largest: float
    relative: float
    agreement: float

    def __str__(self) -> str:
        batch, height, width = self.shape
        return (
            f"{batch} of {height} x {width} pixels: largest difference {self.largest:.1e} "
            f"({self.relative:.1e} of the largest value), {self.agreement:.2%} of labels the same"
        )


def compare(graph: Graph, engine: Engine, size: tuple[int, int] | None = None) -> list[Difference]:
    """Run both on the inputs of :data:`_SIZES`, or on one image of the one ``size`` of a graph.

    Raises:
        UserError: they differ by more than :data:`_TOLERANCE`.
    """
    differences = []
    for shape in _SIZES if size is None else ((1, *size),):
        images = example(graph, shape)
        with torch.no_grad():
            logits = graph.logits(images)
        difference = _differ(shape, logits, finish(logits, graph.postprocess), engine(images))
        if not difference.relative <= _TOLERANCE:  # also true for NaN
            raise UserError(
                f"the exported graph differs from the model ({difference}), so nothing is written; "
                "try another format, and report the network"
            )
        differences.append(difference)
    return differences


def _differ(
    shape: tuple[int, int, int], logits: Tensor, expected: Tensor, output: Tensor
) -> Difference:
    """The difference of a runtime's output from PyTorch's.

    >>> logits = torch.tensor([1.0, 4.0]).view(1, 2, 1, 1)
    >>> _differ((1, 1, 1), logits, logits, torch.tensor([1.0, 3.0]).view(1, 2, 1, 1))
    Difference(shape=(1, 1, 1), largest=1.0, relative=0.25, agreement=1.0)
    """
    if output.shape != expected.shape:
        raise UserError(
            f"the exported graph returns shape {tuple(output.shape)} where the model returns "
            f"{tuple(expected.shape)}, so nothing is written; try another format"
        )
    if expected.ndim == 3:  # labels (B, H, W)
        labels = output.long()
        chosen = logits.gather(1, labels[:, None])[:, 0]  # the logit of each label, (B, H, W)
        largest, scale = (logits.amax(1) - chosen).max(), logits.abs().max()
    else:
        labels = output.argmax(1)
        largest, scale = (output - expected).abs().max(), expected.abs().max()
    same = (labels == logits.argmax(1)).double().mean()
    return Difference(shape, float(largest), float(largest / scale), float(same))
