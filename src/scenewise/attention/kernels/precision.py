"""Full precision where half precision would be wrong: energies and softmax."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """``x`` in float32 if it is float16 or bfloat16, else ``x`` itself.

    A sum over thousands of products leaves float16's range (65504) and bfloat16's 8 bits.

    >>> upcast(torch.ones(2, dtype=torch.bfloat16)).dtype, upcast(torch.ones(2).double()).dtype
    (torch.float32, torch.float64)
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def no_autocast(x: Tensor) -> AbstractContextManager[None]:
    """A context on the device of ``x`` in which autocast does not narrow products again."""
    return torch.autocast(x.device.type, enabled=False)


# Energies this far below the largest are raised to it: e^-60 is far below any rounding, and
# processors take up to a hundred times longer for the subnormal numbers that would come of less.
FLOOR = -60.0


def softmax(energy: Tensor) -> Tensor:
    """Softmax over the last axis that never gives a subnormal number; see :data:`FLOOR`.

    >>> energy = torch.tensor([0.0, -90.0])
    >>> softmax(energy)[1].item() > 1.2e-38, energy.softmax(0)[1].item() > 1.2e-38
    (True, False)
    """
    shifted = energy - energy.detach().amax(-1, keepdim=True)
    return torch.softmax(shifted.clamp(min=FLOOR), dim=-1)
