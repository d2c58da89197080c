"""What a training needs beside weights, optimiser and schedule to go on as if it never stopped."""

from typing import Any

import torch
from lightning.pytorch import LightningModule

from scenewise.training.distributed.fsdp import divided_as, whole


def to_resume(module: LightningModule, *, gradients: bool) -> dict[str, Any]:
    """Random states of PyTorch, and with ``gradients`` those that are summed but not applied yet.

    >>> sorted(to_resume(LightningModule(), gradients=True))
    ['cpu', 'gradients']
    """
    found: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if module.device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(module.device)
    if gradients:
        found["gradients"] = {
            name: whole(parameter.grad)
            for name, parameter in module.named_parameters()
            if parameter.grad is not None
        }
    return found


def resume(module: LightningModule, found: dict[str, Any]) -> None:
    """Put back what :func:`to_resume` found; nothing of an empty dictionary."""
    if "cpu" in found:
        torch.set_rng_state(found["cpu"].cpu())
    if "cuda" in found and module.device.type == "cuda":
        torch.cuda.set_rng_state(found["cuda"].cpu(), module.device)
    summed = found.get("gradients", {})
    for name, parameter in module.named_parameters():
        if name in summed:
            parameter.grad = divided_as(parameter, summed[name].to(parameter.device))
