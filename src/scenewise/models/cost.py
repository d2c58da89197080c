"""What a network costs, before it runs: arithmetic and memory, counted without doing either.

The network is walked with tensors that have a shape but no numbers. Each operation tells what it
would compute and hold, so counting takes a second or less for networks and pictures of any size.
"""

import gc
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from scenewise.models.segmenter import Segmenter

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Estimate:
    """The cost of one batch.

    Attributes:
        parameters: their number.
        flops: of convolutions and matrix products; a multiplication with its addition counts as
            two. In training forward and backward.
        activation_bytes: the most that is alive at once beside the network and the pictures. In
            training with all that the backward pass needs, and the gradients.
        state_bytes: of the network; in training with one more number for each parameter, the
            momentum of SGD.
    """

    parameters: int
    flops: int
    activation_bytes: int
    state_bytes: int

    @property
    def bytes(self) -> int:
        """All the memory, without what the device's libraries take for themselves."""
        return self.activation_bytes + self.state_bytes


def estimate(
    model: Segmenter,
    size: Sequence[int],
    batch: int = 1,
    training: bool = False,
    mixed: bool = False,
) -> Estimate:
    """Count what one batch costs; the model is not changed.

    A device adds some hundred MB for its libraries, and scratch space: of convolutions, and blocks
    of less than 100 MB in attention. AdamW keeps one more number for each parameter than SGD.

    Args:
        model: any network; its weights may be on any device.
        size: height and width of the pictures.
        batch: pictures.
        training: one training step instead of one forward pass.
        mixed: under bfloat16 autocast.

    Raises:
        ValueError: training with one picture, where the network averages it to one pixel.

    >>> from scenewise import create_model
    >>> cost = estimate(create_model("fcn", num_classes=2, backbone="tiny"), (64, 96))
    >>> cost.parameters, round(cost.flops / 1e6), round(cost.bytes / 1e6, 1)
    (139874, 88, 1.2)
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    arithmetic = FlopCounterMode(display=False)
    with _mode(model, training), torch.set_grad_enabled(training), FakeTensorMode():
        state = {name: torch.empty(t.shape, dtype=t.dtype) for name, t in named}
        learned = [state[n] for n, p in model.named_parameters() if p.requires_grad]
        for parameter in learned:
            parameter.requires_grad_()
        images = torch.empty(batch, 3, size[0], size[1])
        memory = _Memory([*state.values(), images])
        narrow = torch.autocast("cpu", torch.bfloat16, enabled=mixed)
        with arithmetic, memory, narrow, _quick_collection():
            inside = {f"model.{name}": tensor for name, tensor in state.items()}
            functional_call(_Step(model), inside, (images,))
    weights = sum(t.nbytes for t in state.values())
    momentum = sum(p.nbytes for p in learned) if training else 0
    return Estimate(
        parameters=sum(p.numel() for p in model.parameters()),
        flops=arithmetic.get_total_flops(),
        activation_bytes=memory.peak,
        state_bytes=weights + momentum,
    )


def product_rate(device: torch.device, size: int = 768, repeats: int = 4) -> float:
    """Rate of float32 matrix products on ``device``, in operations a second: the best of a few."""
    a = torch.ones(size, size, device=device)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        (a @ a)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


class _Memory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages that operations make, from their birth to their end."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held = self.peak = self._collected = 0
        self._alive = {id(t.untyped_storage()) for t in known}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._meet(tensor.untyped_storage())
        return out

    def _meet(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self._alive:
            return
        self._alive.add(id(storage))
        self.held += storage.nbytes()
        if self.held > 1.02 * self._collected:  # tensors without numbers may wait in cycles
            gc.collect()
            self._collected = max(self._collected, self.held)
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._part, id(storage), storage.nbytes())

    def _part(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.held -= size


class _Step(nn.Module):
    """A forward pass; in training also the backward pass, with the given weights in place."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> None:
        """Nothing comes out but costs."""
        if not self.model.training:
            self.model(images)
            return
        out, size = self.model.low_res(images)
        target = torch.zeros(images.shape[0], *size, dtype=torch.int64)

        def loss(scores: Tensor) -> Tensor:
            return F.cross_entropy(self.model.upsample(scores, size), target)

        total = torch.zeros(())
        for scores in (out.logits, *out.auxiliary.values()):
            upsampled = scores.ndim == 4
            total = total + (
                checkpoint(loss, scores, use_reentrant=False, preserve_rng_state=False)
                if upsampled
                else scores.sum()
            )
        for penalty in out.penalties.values():
            total = total + penalty
        total.backward()  # type: ignore[no-untyped-call]


@contextmanager
def _quick_collection() -> Iterator[None]:
    """``gc.collect`` looks only at what is made inside."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Training or evaluation mode for a while; afterwards each part is in its own again."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


# What the attention kernels compute: products of pairs, with the D channels of query and key and
# with the C channels of the value. Backward computes the energies again.


@register_flop_formula(torch.ops.scenewise.position_attention)
def _position(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return _pairs(query, key) * (query[2] + value[2])


@register_flop_formula(torch.ops.scenewise.position_attention_backward)
def _position_backward(
    grad: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any
) -> int:
    return _pairs(query, key) * (3 * query[2] + 2 * value[2])


@register_flop_formula(torch.ops.scenewise.criss_cross)
def _criss_cross(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return _crosses(query) * (query[1] + value[1])


@register_flop_formula(torch.ops.scenewise.criss_cross_backward)
def _criss_cross_backward(
    grad: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any
) -> int:
    return _crosses(query) * (3 * query[1] + 2 * value[1])


def _pairs(query: Shape, key: Shape) -> int:
    """Arithmetic for one channel of all pairs, 2 B Nq Nk."""
    return 2 * query[0] * query[1] * key[1]


def _crosses(query: Shape) -> int:
    """Arithmetic for one channel of all pixels in one row or column, 2 B H W (H + W)."""
    batch, _, height, width = query
    return 2 * batch * height * width * (height + width)
