"""An exported graph against the model it came from."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from scenewise.errors import UserError
from scenewise.exports.trace import Graph, example, finish

SIZES = ((2, 65, 97), (1, 120, 72))  # batch, height, width
TOLERANCE = 1e-4  # of the largest score


class Engine(Protocol):
    """A graph in its runtime: input tensor on the CPU -> output tensor on the CPU."""

    def __call__(self, images: Tensor) -> Tensor: ...


class Difference(NamedTuple):
    """How far a runtime is from PyTorch on one input.

    Attributes:
        shape: (batch, height, width).
        largest: difference of two numbers. Where the graph gives labels: how far the logit of a
            label lies below the largest of its pixel; not 0 where two are about level.
        relative: the same, as a part of the largest number.
        agreement: share of the pixels with the same label.
    """

    shape: tuple[int, int, int]
    largest: float
    relative: float
    agreement: float

    def __str__(self) -> str:
        batch, height, width = self.shape
        return (
            f"{batch} of {height} x {width} pixels: largest difference {self.largest:.1e} "
            f"({self.relative:.1e} of the largest number), {self.agreement:.2%} of labels the same"
        )


def compare(graph: Graph, engine: Engine) -> list[Difference]:
    """Run both on the inputs of :data:`SIZES`.

    Raises:
        UserError: they differ by more than :data:`TOLERANCE`.
    """
    found = []
    for shape in SIZES:
        images = example(graph.postprocess, shape)
        with torch.no_grad():
            logits = graph.logits(images)
        difference = differ(shape, logits, finish(logits, graph.postprocess), engine(images))
        if not difference.relative <= TOLERANCE:  # also where it is no number
            raise UserError(
                f"the exported graph does not give what the model gives ({difference}), so nothing "
                "is written; try another format, and report the network"
            )
        found.append(difference)
    return found


def differ(
    shape: tuple[int, int, int], logits: Tensor, expected: Tensor, given: Tensor
) -> Difference:
    """The difference of what a graph gave from what PyTorch gave.

    >>> logits = torch.tensor([1.0, 4.0]).view(1, 2, 1, 1)
    >>> differ((1, 1, 1), logits, logits, torch.tensor([1.0, 3.0]).view(1, 2, 1, 1))
    Difference(shape=(1, 1, 1), largest=1.0, relative=0.25, agreement=1.0)
    """
    if given.shape != expected.shape:
        raise UserError(
            f"the exported graph gives {tuple(given.shape)} where the model gives "
            f"{tuple(expected.shape)}, so nothing is written; try another format"
        )
    if expected.ndim == 3:
        chosen = logits.gather(1, given.long()[:, None])[:, 0]
        largest, scale = (logits.amax(1) - chosen).max(), logits.abs().max()
        labels = given.long()
    else:
        largest, scale = (given - expected).abs().max(), expected.abs().max()
        labels = given.argmax(1)
    same = (labels == logits.argmax(1)).double().mean()
    return Difference(shape, float(largest), float(largest / scale), float(same))
