"""Full precision where half precision would be wrong: energies and softmax."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """``x`` in float32 if it is float16 or bfloat16, else ``x`` itself.

    A sum over thousands of products leaves float16's range (65504) and bfloat16's 8 bits.

    >>> widen(torch.ones(2, dtype=torch.bfloat16)).dtype, widen(torch.ones(2).double()).dtype
    (torch.float32, torch.float64)
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def no_autocast(x: Tensor) -> AbstractContextManager[None]:
    """A context on the device of ``x`` in which autocast does not narrow products again."""
    return torch.autocast(x.device.type, enabled=False)
