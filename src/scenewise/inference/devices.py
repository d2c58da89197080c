"""The device that a network runs on, from its name."""

import os

import torch

from scenewise.errors import UserError


def usable_device(name: str | torch.device) -> torch.device:
    """The device called ``name``.

    Raises:
        UserError: PyTorch does not know it, or this machine does not have it.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)  # fails if it is not available
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device '{name}' is not available ({reason}); cpu always is") from error
    return device


def best_device(name: str | None) -> torch.device:
    """The named device; None chooses an accelerator if one is available, else the CPU.

    Of several accelerators, each process started by torchrun takes its own (LOCAL_RANK).
    """
    if name is not None:
        return usable_device(name)
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", "0")) % torch.accelerator.device_count()
    return torch.device(accelerator.type, index) if index else accelerator
