"""Sharded training: weights divided among the processes by FSDP2 or HSDP, on GPUs and CPUs.

Zhao et al., "PyTorch FSDP", arXiv 2304.11277; PyTorch's ``torch.distributed.fsdp.fully_shard``.
"""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import nn
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

from scenewise.errors import UserError
from scenewise.models.activation_checkpointing import blocks_of
from scenewise.models.segmenter import Segmenter
from scenewise.training.checkpoint import refuse_other_model, shapes_of


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard the weights of ``model`` over the processes of ``mesh``, in place.

    Each stage or block of ``model.backbone``, each other child, and the remainder are gathered when
    they compute, and freed afterwards. A mesh of one dimension shards over all its processes
    (FSDP); of two (replicas, shards), over the second, with gradients averaged over the first
    (HSDP).
    """
    model.to(memory_format=torch.contiguous_format)  # the only format that can be sharded
    for part in _units(model):
        fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "low_res")  # a training calls it


def _units(model: nn.Module) -> list[nn.Module]:
    """Modules that are each gathered at once: blocks of the backbone, other children with weights.

    >>> from scenewise.models import create_model
    >>> len(_units(create_model("fcn", num_classes=2, backbone="tiny", pretrained=False)))
    4
    """
    units: list[nn.Module] = []
    for name, child in model.named_children():
        blocks = list(blocks_of(child)) if name == "backbone" else []
        units += blocks or [child]
    return [unit for unit in units if any(True for _ in unit.parameters())]


class _ShardedStrategy(ModelParallelStrategy):
    """Shard weights, gradients and the optimiser's state over the processes, on CPUs too.

    Checkpoints are complete files, as a single process writes them.

    Args:
        replicas: number of copies of the weights (HSDP); each is sharded over an equal share of
            the processes. 1 is FSDP; None is one copy for each machine.
    """

    def __init__(self, replicas: int | None = 1) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)
        self.replicas = replicas
        self._shapes: dict[str, torch.Size] = {}

    def setup_environment(self) -> None:
        """Start the process group; every process takes its own images."""
        self._data_parallel_size = self.num_processes * self.num_nodes
        super().setup_environment()
        module = self.lightning_module
        assert module is not None
        vars(module)["configure_model"] = self._shard  # only this strategy needs the hook

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Refuse the checkpoint of another model, else load weights and optimiser.

        Lightning's own method loads one module after the other, which FSDP2 takes for a forward
        pass.
        """
        path = self.broadcast(checkpoint_path)
        checkpoint: dict[str, Any] = torch.load(
            path, mmap=True, map_location="cpu", weights_only=weights_only
        )
        saved = shapes_of(checkpoint["state_dict"])
        refuse_other_model(checkpoint.get("scenewise"), saved, self._network(), self._shapes)
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(self.model, checkpoint.pop("state_dict"), options=options)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=False):
            named = FullyShardedDataParallel.rekey_optim_state_dict(
                state, OptimStateKeyType.PARAM_NAME, self.model
            )
            set_optimizer_state_dict(self.model, optimizer, named, options=options)
        return checkpoint

    def _shard(self) -> None:
        """Synchronise batch norms if requested, then :func:`shard`."""
        network = self._network()
        if isinstance(network, FSDPModule):  # already sharded; Lightning calls the hook twice
            return
        assert self.lightning_module is not None
        self._shapes = shapes_of(self.lightning_module.state_dict())
        if self._layer_sync is not None:
            self._layer_sync.apply(network)
        shard(network, self._mesh())

    def _network(self) -> Segmenter:
        assert self.lightning_module is not None
        network = self.lightning_module.model
        assert isinstance(network, Segmenter)
        return network

    def _mesh(self) -> DeviceMesh:
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


SHARDED = ("fsdp2", "hsdp")  # names of the strategies for --trainer.strategy
StrategyRegistry.register("fsdp2", _ShardedStrategy, "FSDP2, on CPUs too")
StrategyRegistry.register("hsdp", _ShardedStrategy, "FSDP2 in each machine", replicas=None)
