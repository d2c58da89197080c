"""Numerical precision of attention: float32 energies under mixed precision, and a safe softmax."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

FLOOR = -60.0  # lowest energy below the row's maximum that softmax sees; see `softmax`


def upcast(x: Tensor) -> Tensor:
    """``x`` in float32 if it is float16 or bfloat16, else ``x`` itself.

    A sum over thousands of products exceeds float16's range (65504) and bfloat16's 8 bits.

    >>> upcast(torch.ones(2, dtype=torch.bfloat16)).dtype, upcast(torch.ones(2).double()).dtype
    (torch.float32, torch.float64)
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def no_autocast(x: Tensor) -> AbstractContextManager[None]:
    """A context that disables autocast on the device of ``x``; the meta device has none."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def softmax(energy: Tensor) -> Tensor:
    """Softmax over the last axis without subnormal numbers.

    Energies more than 60 below the largest are raised to that floor: e^-60 is far below any
    rounding error, and processors take up to a hundred times longer for subnormal numbers.

    >>> energy = torch.tensor([0.0, -90.0])
    >>> softmax(energy)[1].item() > 1.2e-38, energy.softmax(0)[1].item() > 1.2e-38
    (True, False)
    """
    shifted = energy - energy.detach().amax(-1, keepdim=True)
    return torch.softmax(shifted.clamp(min=FLOOR), dim=-1)
