"""Run a foreign network, save its file, convert it, run ours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scenewise import Segmenter
from scenewise.models.convert import Options, convert
from tests.models.convert.external import Weights

SIZE = (65, 97)


def random_image(size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def differs(
    file: Path,
    network: Callable[[Weights, Tensor], Tensor],
    w: Weights,
    *,
    options: Options | None = None,
    wrap: Callable[[dict[str, Tensor]], Any] = lambda tensors: {"state_dict": tensors},
    size: tuple[int, int] = SIZE,
) -> tuple[Segmenter, float]:
    """The converted model, and the largest difference of its scores relative to the largest."""
    images = random_image(size)
    theirs = network(w, images)
    assert theirs.std() > 0.01  # a network that says nothing would agree with anything
    torch.save(wrap(w.tensors), file)
    model = convert(file, options)
    ours = model(images).logits
    assert ours.shape == theirs.shape
    return model, ((ours - theirs).abs().max() / theirs.abs().max()).item()
