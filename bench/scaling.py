"""Benchmark of scaling: attention blocks against image size, batch size and processes."""

import multiprocessing
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from scenewise.apps.bench.measure import Row, Run, compare, forward_only, in_turns
from scenewise.attention import (
    AsymmetricPyramid,
    CompactPosition,
    CrissCrossAttention,
    PositionAttention,
)
from scenewise.attention.position import pixels

CHANNELS = 512
SIZES = ((64, 64), (96, 96), (128, 128), (128, 256), (256, 256), (256, 512))
DENSE_UP_TO, BACKWARD_UP_TO, ONCE_FROM = 16384, 32768, 40000
BATCHES, BATCH_SIZE = (1, 2, 4, 8), (64, 64)
PROCESSES, IMAGES = (1, 2), 8


class Dense(PositionAttention):
    """Position attention with the whole attention map in memory."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        query, key, value = (pixels(part(x)) for part in (self.query, self.key, self.value))
        rows = torch.softmax(query @ key.transpose(1, 2), dim=-1) @ value
        return self.gamma * rows.transpose(1, 2).reshape(x.shape) + x


BLOCKS: dict[str, Callable[[int], nn.Module]] = {
    "position, dense": Dense,
    "position, tiles": PositionAttention,
    "criss-cross, R 2": CrissCrossAttention,
    "pooled (ANN)": AsymmetricPyramid,
    "compact (DRANet)": CompactPosition,
}


def rows(repeats: int = 5) -> list[Row]:
    """Against the number of pixels, the batch and the number of processes."""
    return [*_pixels(min(repeats, 3)), *_batches(repeats), *_processes(repeats)]


def _pixels(repeats: int) -> list[Row]:
    table = []
    for height, width in SIZES:
        count = height * width
        x = _image(1, height, width)
        blocks = {name: build(CHANNELS).eval() for name, build in BLOCKS.items()}
        if count > DENSE_UP_TO:
            del blocks["position, dense"]
        forward = {name: forward_only(block, [x]) for name, block in blocks.items()}
        work = f"N = {count}, forward"
        if count >= ONCE_FROM:
            table += in_turns(work, forward, turns=1)
            continue
        table += compare(work, forward, repeats)
        if count <= BACKWARD_UP_TO:
            both = {name: _with_backward(block, x) for name, block in blocks.items()}
            table += compare(f"N = {count}, + backward", both, repeats)
    return table


def _batches(repeats: int) -> list[Row]:
    """Batch sizes; seconds are of the whole batch."""
    block = PositionAttention(CHANNELS).eval()
    variants = {str(b): forward_only(block, [_image(b, *BATCH_SIZE)]) for b in BATCHES}
    return compare(f"position, N = {BATCH_SIZE[0] * BATCH_SIZE[1]}, batch of", variants, repeats)


def _processes(repeats: int) -> list[Row]:
    """``IMAGES`` images shared by processes of one thread each; memory is not counted."""
    seconds = {}
    for count in PROCESSES:
        with multiprocessing.get_context("spawn").Pool(count) as pool:
            pool.map(_one_image, range(count), chunksize=1)  # starts the processes; imports
            times = []
            for _ in range(repeats):
                start = time.perf_counter()
                pool.map(_one_image, range(IMAGES), chunksize=1)
                times.append(time.perf_counter() - start)
        seconds[str(count)] = sorted(times)[len(times) // 2]
    work = f"position, N = {BATCH_SIZE[0] * BATCH_SIZE[1]}, {IMAGES} images, processes:"
    first, unknown = next(iter(seconds.values())), float("nan")
    return [Row(work, count, t, unknown, t / first, unknown) for count, t in seconds.items()]


def _one_image(_: int) -> None:
    torch.set_num_threads(1)
    forward_only(PositionAttention(CHANNELS).eval(), [_image(1, *BATCH_SIZE)])()


def _image(batch: int, height: int, width: int) -> Tensor:
    x = torch.randn(batch, CHANNELS, height, width) * 0.1
    return x.contiguous(memory_format=torch.channels_last)


def _with_backward(block: nn.Module, x: Tensor) -> Run:
    leaves = [x.requires_grad_(), *block.parameters()]
    grad = torch.ones_like(x)
    return lambda: torch.autograd.grad(block(x), leaves, grad, allow_unused=True)
