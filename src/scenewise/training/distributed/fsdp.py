"""Weights divided among the processes: FSDP2 and HSDP.

Zhao et al., "PyTorch FSDP", arXiv 2304.11277; PyTorch's ``torch.distributed.fsdp.fully_shard``.
"""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    FullyShardedDataParallel,
    OptimStateKeyType,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from scenewise.errors import UserError
from scenewise.models.activation_checkpointing import blocks_of
from scenewise.models.segmenter import Segmenter
from scenewise.training.defaults import refuse_another, shapes_of


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Divide the weights of ``model`` among the processes of ``mesh``, in place.

    Each stage or block of ``model.backbone``, each other child, and what is left are gathered when
    they compute, and freed after. A mesh of one dimension shards over all its processes (FSDP); of
    two (replicas, shards), over the second, with gradients averaged over the first (HSDP).
    """
    model.to(memory_format=torch.contiguous_format)  # the only format that can be divided
    for part in parts(model):
        fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "low_res")  # what a training calls


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be divided, gathered from all processes, which must all ask for it.

    >>> whole(torch.ones(1))
    tensor([1.])
    """
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def divided_as(parameter: Tensor, tensor: Tensor) -> Tensor:
    """``tensor``, divided among the processes if ``parameter`` is."""
    if not isinstance(parameter, DTensor):
        return tensor
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)


def parts(model: nn.Module) -> list[nn.Module]:
    """What is gathered at once: each block of the backbone, and each other child with weights.

    >>> from scenewise.models import create_model
    >>> len(parts(create_model("fcn", num_classes=2, backbone="tiny", pretrained=False)))
    4
    """
    found: list[nn.Module] = []
    for name, child in model.named_children():
        blocks = list(blocks_of(child)) if name == "backbone" else []
        found += blocks or [child]
    return [part for part in found if any(True for _ in part.parameters())]


class ShardedStrategy(ModelParallelStrategy):
    """Weights, gradients and the optimiser's state divided among the processes, on CPUs too.

    Checkpoints are whole files, as of one process.

    Args:
        replicas: how many copies of the weights there are (HSDP); each is divided among an equal
            share of the processes. 1 is FSDP; None is one copy for each machine.
    """

    def __init__(self, replicas: int | None = 1) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)
        self.replicas = replicas
        self._shapes: dict[str, torch.Size] = {}

    def setup_environment(self) -> None:
        """Start the processes' group, with every process taking its own pictures."""
        self._data_parallel_size = self.num_processes * self.num_nodes
        super().setup_environment()
        module = self.lightning_module
        assert module is not None
        vars(module)["configure_model"] = self.divide  # of all strategies, this one alone needs it

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Refuse the checkpoint of another model, else load weights and optimiser.

        Lightning's own way loads one part after the other, which FSDP2 takes for a first pass.
        """
        path = self.broadcast(checkpoint_path)
        found = torch.load(path, mmap=True, map_location="cpu", weights_only=weights_only)
        refuse_another(found, self._network(), self._shapes)
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(self.model, found.pop("state_dict"), options=options)
        for optimizer, state in zip(self.optimizers, found["optimizer_states"], strict=False):
            named = FullyShardedDataParallel.rekey_optim_state_dict(
                state, OptimStateKeyType.PARAM_NAME, self.model
            )
            set_optimizer_state_dict(self.model, optimizer, named, options=options)
        loaded: dict[str, Any] = found
        return loaded

    def divide(self) -> None:
        """Synchronise the batch norms if that was asked for, then :func:`shard`."""
        network = self._network()
        if isinstance(network, FSDPModule):
            return
        assert self.lightning_module is not None
        self._shapes = shapes_of(self.lightning_module.state_dict())
        if self._layer_sync is not None:
            self._layer_sync.apply(network)
        shard(network, self.mesh())

    def _network(self) -> Segmenter:
        assert self.lightning_module is not None
        network = self.lightning_module.model
        assert isinstance(network, Segmenter)
        return network

    def mesh(self) -> DeviceMesh:
        """(shards,), or (replicas, shards)."""
        replicas = self.num_nodes if self.replicas is None else self.replicas
        if self.world_size % replicas:
            raise UserError(
                f"{self.world_size} processes cannot hold {replicas} equal replicas; give a "
                "number of replicas that divides the processes"
            )
        device, shards = self.root_device.type, self.world_size // replicas
        if replicas == 1:
            return init_device_mesh(device, (shards,), mesh_dim_names=("shard",))
        names = ("replicate", "shard")
        return init_device_mesh(device, (replicas, shards), mesh_dim_names=names)


StrategyRegistry.register("fsdp2", ShardedStrategy, "FSDP2, on CPUs too")
StrategyRegistry.register("hsdp", ShardedStrategy, "FSDP2 in each machine", replicas=None)
