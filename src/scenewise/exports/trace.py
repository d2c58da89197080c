"""``torch.export`` of a model with dynamic batch, height and width."""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from scenewise.errors import UserError
from scenewise.models.segmenter import Segmenter

Postprocess = Literal["labels", "probabilities", "logits"]
_TRACED = (2, 65, 97)  # batch, height, width: all different, so that none is taken for another


class Graph(nn.Module):
    """The module that is exported: a float32 copy of a model on the CPU, in evaluation mode.

    Without ``postprocess``, normalised images (B, C, H, W), float32 -> logits (B, K, H, W). With
    it, images (B, H, W, C) as image readers return -> :func:`finish` of the logits: uint8, or
    float32 where the model has the value range of a sensor.
    """

    def __init__(self, model: Segmenter, postprocess: Postprocess | None = None) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).float().cpu().requires_grad_(False)
        self.postprocess = postprocess
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return finish(self.logits(images), self.postprocess)

    def logits(self, images: Tensor) -> Tensor:
        """The logits before :func:`finish`, (B, K, H, W)."""
        if self.postprocess is not None:
            images = self.model.normalize(images.permute(0, 3, 1, 2))  # (B, C, H, W)
        logits: Tensor = self.model(images).logits
        return logits


def finish(logits: Tensor, postprocess: Postprocess | None) -> Tensor:
    """Labels (B, H, W), uint8; or probabilities or logits (B, K, H, W).

    >>> finish(torch.tensor([0.0, 2.0]).view(1, 2, 1, 1), "labels")
    tensor([[[1]]], dtype=torch.uint8)
    """
    if postprocess == "labels":
        return logits.argmax(1).to(torch.uint8)  # (B, H, W)
    return logits.softmax(1) if postprocess == "probabilities" else logits


def example(graph: Graph, shape: tuple[int, int, int]) -> Tensor:
    """Random input of the graph for (batch, height, width), the same in each call."""
    batch, height, width = shape
    of_images = graph.model.preprocessing
    random = torch.Generator().manual_seed(0)
    if graph.postprocess is None:
        return torch.randn(batch, of_images.in_channels, height, width, generator=random)
    size = (batch, height, width, of_images.in_channels)
    if of_images.input_range is None:
        return torch.randint(0, 256, size, generator=random, dtype=torch.uint8)
    low, high = of_images.input_range
    return low + (high - low) * torch.rand(size, generator=random)


def export_program(graph: Graph, size: tuple[int, int] | None = None) -> ExportedProgram:
    """Trace the graph, with dynamic batch, height and width; or for one image of one ``size``.

    Raises:
        UserError: the network does something that cannot be traced.
    """
    sides = (2, 3) if graph.postprocess is None else (1, 2)  # axes of height and width
    dynamic = None if size else (dict.fromkeys((0, *sides), Dim.DYNAMIC),)
    try:
        with torch.no_grad(), quiet():
            images = example(graph, (1, *size) if size else _TRACED)
            return torch.export.export(graph, (images,), dynamic_shapes=dynamic)
    except Exception as error:
        raise failed("torch.export", error) from error


def failed(what: str, error: Exception) -> UserError:
    """The error for a converter that failed."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return UserError(
        f"{what} cannot convert this network ({type(error).__name__}: {reason[:200]}); try another "
        "format, or run with --debug to see where"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of converters about their internals."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
