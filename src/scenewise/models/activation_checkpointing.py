"""Activation checkpointing: blocks of the backbone are recomputed in the backward pass.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from scenewise.errors import UserError
from scenewise.models.backbone import Backbone, TinyBackbone


def recompute_backbone(backbone: nn.Module) -> None:
    """Keep only the inputs of blocks for the backward pass, in place.

    The forward pass of each block runs once more in the backward pass: about a fifth more FLOPs in
    a DANet. Gradients are the same, and batch norms count each batch once.

    Raises:
        UserError: the backbone is neither a timm network with blocks nor the tiny one.

    >>> from scenewise.models.backbone import TinyBackbone
    >>> backbone = TinyBackbone().train()
    >>> recompute_backbone(backbone)
    >>> backbone(torch.randn(1, 3, 32, 32))[0].shape
    torch.Size([1, 32, 16, 16])
    """
    blocks = list(blocks_of(backbone))
    if not blocks:
        raise UserError(
            "this backbone has no blocks that can be recomputed; train it without "
            "--model.checkpoint_activations"
        )
    for block in blocks:
        block.forward = partial(_checkpointed, block, block.forward)


def is_recomputed(backbone: nn.Module) -> bool:
    """Whether :func:`recompute_backbone` was applied.

    >>> is_recomputed(TinyBackbone())
    False
    """
    return any("forward" in vars(block) for block in blocks_of(backbone))


def blocks_of(backbone: nn.Module) -> Iterator[nn.Module]:
    """The stages of the tiny backbone, or the blocks of a timm network."""
    if isinstance(backbone, TinyBackbone):
        yield from backbone.stages
    elif isinstance(backbone, Backbone):
        for name, module in backbone.net.named_children():
            if name.startswith(("layer", "stages", "blocks")):
                yield from _flatten(module)


def _flatten(module: nn.Module) -> Iterator[nn.Module]:
    """The elements of a sequence, and of sequences in it."""
    if isinstance(module, nn.Sequential | nn.ModuleList):
        for child in module.children():
            yield from _flatten(child)
    else:
        yield module


def _checkpointed(block: nn.Module, forward: Callable[..., Any], *inputs: Tensor) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*inputs)  # no backward pass follows
    return checkpoint(
        forward,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _frozen_statistics(block)),  # first run, recomputation
    )


@contextmanager
def _frozen_statistics(block: nn.Module) -> Iterator[None]:
    """Batch norms normalise by the batch but do not update their running statistics."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # running = 1 * running + 0 * batch
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()  # the copy counts
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
