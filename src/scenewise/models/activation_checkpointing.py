"""Less memory for more arithmetic: the parts of a backbone are computed again in backward.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from scenewise.errors import UserError
from scenewise.models.backbone import Backbone, TinyBackbone


def recompute_backbone(backbone: nn.Module) -> None:
    """Keep only the inputs of residual blocks for the backward pass, in place.

    The forward pass of each block runs once more in the backward pass: about a fifth more
    arithmetic in a DANet. Gradients are the same, and batch norms count each batch once.

    Raises:
        UserError: a backbone that is neither a timm network of blocks nor the tiny one.

    >>> from scenewise.models.backbone import TinyBackbone
    >>> backbone = TinyBackbone().train()
    >>> recompute_backbone(backbone)
    >>> backbone(torch.randn(1, 3, 32, 32))[0].shape
    torch.Size([1, 32, 16, 16])
    """
    parts = list(blocks_of(backbone))
    if not parts:
        raise UserError(
            "this backbone has no blocks that could be computed again; train it without "
            "--model.checkpoint_activations"
        )
    for part in parts:
        part.forward = partial(_recomputed, part, part.forward)


def is_recomputed(backbone: nn.Module) -> bool:
    """Whether :func:`recompute_backbone` was here.

    >>> is_recomputed(TinyBackbone())
    False
    """
    return any("forward" in vars(part) for part in blocks_of(backbone))


def blocks_of(backbone: nn.Module) -> Iterator[nn.Module]:
    """Stages of the tiny backbone; the blocks that a timm network has in sequences."""
    if isinstance(backbone, TinyBackbone):
        yield from backbone.stages
    elif isinstance(backbone, Backbone):
        for name, module in backbone.net.named_children():
            if name.startswith(("layer", "stages", "blocks")):
                yield from _blocks(module)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The elements of a sequence, and of sequences in it."""
    if isinstance(module, nn.Sequential | nn.ModuleList):
        for child in module.children():
            yield from _blocks(child)
    else:
        yield module


def _recomputed(part: nn.Module, forward: Callable[..., Any], *inputs: Tensor) -> Any:
    if not (part.training and torch.is_grad_enabled()):
        return forward(*inputs)
    again = partial(_contexts, part)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=again)


def _contexts(part: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), _uncounted(part)


@contextmanager
def _uncounted(part: nn.Module) -> Iterator[None]:
    """Batch norms normalise by the batch but leave their running statistics as they are."""
    norms = [m for m in part.modules() if isinstance(m, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
