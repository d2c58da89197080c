"""FLOPs and memory of a network, estimated without running it.

The network runs on fake tensors, which have a shape but no data. The FLOPs and bytes of each
operation are summed, so an estimate takes a second or less for any network and image size.
"""

import copy
import gc
import statistics
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
from torch.utils.flop_counter import FlopCounterMode

from scenewise.models.segmenter import Segmenter, evaluating


@dataclass(frozen=True)
class Estimate:
    """The cost of one batch.

    Attributes:
        parameters: their number.
        flops: of convolutions and matrix products, as ``torch.utils.flop_counter`` counts them: a
            multiply-add is two. In training of the forward and backward pass.
        activation_bytes: peak memory without the network and the images. In training with what
            the backward pass needs, and the gradients.
        state_bytes: of the network; in training with one more value for each parameter, the
            momentum of SGD.
    """

    parameters: int
    flops: int
    activation_bytes: int
    state_bytes: int

    @property
    def bytes(self) -> int:
        """The sum, without the memory of the device's libraries."""
        return self.activation_bytes + self.state_bytes


def estimate(
    model: Segmenter,
    size: Sequence[int],
    batch: int = 1,
    training: bool = False,
    mixed: bool = False,
) -> Estimate:
    """Estimate the cost of one batch; the model is not changed.

    A device adds some hundred MB for its libraries, and scratch space: of convolutions, and blocks
    of less than 100 MB in attention. AdamW keeps one more value for each parameter than SGD.

    Args:
        model: any network; its weights may be on any device.
        size: height and width of the images.
        batch: number of images.
        training: one training step instead of one forward pass.
        mixed: under bfloat16 autocast.

    Raises:
        ValueError: training with one image, where the network pools it to one pixel.

    >>> from scenewise import create_model
    >>> cost = estimate(create_model("fcn", num_classes=2, backbone="tiny"), (64, 96))
    >>> cost.parameters, round(cost.flops / 1e6), round(cost.bytes / 1e6, 1)
    (139874, 88, 1.2)
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    flops = FlopCounterMode(display=False)
    with evaluating(model), torch.set_grad_enabled(training), FakeTensorMode():
        model.train(training)  # `evaluating` restores every module's mode
        state = {name: torch.empty(t.shape, dtype=t.dtype) for name, t in named}
        trained = [state[n] for n, p in model.named_parameters() if p.requires_grad]
        for parameter in trained:
            parameter.requires_grad_()
        images = torch.empty(batch, model.preprocessing.in_channels, size[0], size[1])
        memory = _Memory([*state.values(), images])
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=mixed)
        with flops, memory, autocast, _quick_collection():
            fakes = {f"model.{name}": tensor for name, tensor in state.items()}
            functional_call(_Step(model), fakes, (images,))
    weights = sum(t.nbytes for t in state.values())
    momentum = sum(p.nbytes for p in trained) if training else 0
    return Estimate(
        parameters=sum(p.numel() for p in model.parameters()),
        flops=flops.get_total_flops(),
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


def step_seconds(
    model: Segmenter,
    size: Sequence[int],
    batch: int,
    device: torch.device,
    mixed: bool = False,
    repeats: int = 3,
) -> float:
    """Seconds of a forward and backward pass of a copy of the model on ``device``.

    It is the median of a few, since other work on the machine will slow a training too. The model
    and the random state are not changed.

    >>> from scenewise import create_model
    >>> model = create_model("fcn", num_classes=2, backbone="tiny")
    >>> 0 < step_seconds(model, (32, 48), 2, torch.device("cpu"), repeats=1) < 60
    True
    """
    step = _Step(copy.deepcopy(model).to(device).train())
    channels = model.preprocessing.in_channels
    images = torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(0))
    images = images.to(device, memory_format=torch.channels_last)
    seconds: list[float] = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for repeat in range(repeats + 1):
            start = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
                step(images)
            next(step.parameters()).sum().item()  # waits for the device
            if repeat > 0:  # the first is slower
                seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


class _Memory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tracks the storages that operations allocate, until they are freed."""

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
                self._allocate(tensor.untyped_storage())
        return out

    def _allocate(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self._alive:
            return  # a view, or in place
        self._alive.add(id(storage))
        self.held += storage.nbytes()
        if self.held > 1.02 * self._collected:  # fake tensors may wait in cycles
            gc.collect()
            self._collected = max(self._collected, self.held)  # next time at a new peak
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._free, id(storage), storage.nbytes())  # when it is freed

    def _free(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.held -= size


class _Step(nn.Module):
    """A forward pass; in training with loss and backward pass."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> None:
        """Nothing is returned; the modes around the call count."""
        if not self.model.training:
            self.model(images)
            return
        out, size = self.model.low_res(images)
        target = torch.zeros(images.shape[0], *size, dtype=torch.int64)  # (B, H, W)

        def loss(logits: Tensor) -> Tensor:
            return F.cross_entropy(self.model.upsample(logits, size), target)

        total = torch.zeros(())
        for logits in (out.logits, *out.auxiliary.values()):
            if logits.ndim == 4:  # the loss of training upsamples again in the backward pass
                total += checkpoint(loss, logits, use_reentrant=False, preserve_rng_state=False)
            else:
                total += logits.sum()  # (B, K)
        for penalty in out.penalties.values():
            total += penalty
        total.backward()  # type: ignore[no-untyped-call]


@contextmanager
def _quick_collection() -> Iterator[None]:
    """``gc.collect`` looks only at objects that are created inside."""
    gc.freeze()  # what exists is not searched again
    try:
        yield
    finally:
        gc.unfreeze()
