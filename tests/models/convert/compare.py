"""Run a network of another project, save its file, convert it, and compare the logits."""

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
    """The converted model, and the largest difference of its logits relative to the largest."""
    images = random_image(size)
    expected = network(w, images)
    assert expected.std() > 0.01  # constant logits would prove nothing
    torch.save(wrap(w.tensors), file)
    model = convert(file, options)
    logits = model(images).logits
    assert logits.shape == expected.shape
    return model, ((logits - expected).abs().max() / expected.abs().max()).item()
