"""Sharded weights and synchronised batch norm on CPUs; here what other modules need of them.

docs/decisions/0013-distributed.md says who uses them.
"""

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights of ``model`` are divided among processes."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def full_tensor(tensor: Tensor) -> Tensor:
    """``tensor``, gathered if it is sharded; then all processes must call this.

    >>> import torch
    >>> full_tensor(torch.ones(1))
    tensor([1.])
    """
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """``tensor``, divided among the processes if ``parameter`` is."""
    if not isinstance(parameter, DTensor):
        return tensor
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
