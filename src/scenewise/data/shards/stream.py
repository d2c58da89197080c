"""Batches from shards, read one after another, for sets that do not fit the disk."""

import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from scenewise.data.datasets import Sample, collate
from scenewise.data.shards import Encoded, ShardSet, read_shard

Batch = dict[str, Tensor | list[str]]
Named = tuple[str, Encoded]
T = TypeVar("T")


class ShardStream(IterableDataset[Batch]):
    """Whole batches of a :class:`ShardSet`; ``len`` is exactly how many this process will get.

    Every process and every worker reads shards of its own. Where there are fewer shards than
    readers, all of them read all shards and each keeps every n-th sample.

    Evaluation (no ``buffer``): in order, each sample in exactly one batch of one process.

    Training: the shards come in an order drawn anew for each epoch, and samples leave a buffer at
    random. All processes get equally many full batches, so a reader with few samples starts again
    and one with many stops early; what it left out comes in other epochs.

    Args:
        source: the split; its ``transform`` is applied.
        batch_size: samples in a batch.
        workers: of the data loader, 0 or more.
        world: number of processes.
        rank: which of them this is.
        buffer: encoded samples that each worker holds to draw from; 0 for evaluation.
        seed: of all orders.
        epoch: the first one.
    """

    def __init__(
        self,
        source: ShardSet,
        batch_size: int,
        *,
        workers: int = 0,
        world: int = 1,
        rank: int = 0,
        buffer: int = 0,
        seed: int = 0,
        epoch: int = 0,
    ) -> None:
        self.source = source
        self.batch_size = batch_size
        self.workers = max(1, workers)
        self.world = world
        self.rank = rank
        self.buffer = buffer
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(self._batches(worker) for worker in range(self.workers))

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker = 0 if info is None else info.id
        epoch, self.epoch = self.epoch, self.epoch + 1
        samples = self._endless(worker, epoch) if self.buffer else self._once(worker)
        for _ in range(self._batches(worker)):
            yield collate([self._sample(found) for found in islice(samples, self.batch_size)])

    def _batches(self, worker: int) -> int:
        if not self.buffer:
            return -(-self._held(worker) // self.batch_size)
        total = max(1, len(self.source) // self.world // self.batch_size)
        return total // self.workers + (worker < total % self.workers)

    def _held(self, worker: int) -> int:
        """How many samples a worker has in an evaluation."""
        shards, part, parts = self._share(worker, self.source.shards)
        return sum(len(range(part, len(names), parts)) for _, names in shards)

    def _share(
        self, worker: int, shards: list[tuple[str, list[str]]]
    ) -> tuple[list[tuple[str, list[str]]], int, int]:
        """The shards of a worker, and which of how many parts of their samples is its own."""
        reader, readers = worker * self.world + self.rank, self.workers * self.world
        if len(shards) >= readers:
            return shards[reader::readers], 0, 1
        return shards, reader, readers

    def _once(self, worker: int) -> Iterator[Named]:
        return self._read(*self._share(worker, self.source.shards))

    def _endless(self, worker: int, epoch: int) -> Iterator[Named]:
        together = random.Random(f"{self.seed} {epoch}")  # the same in all readers
        order = together.sample(self.source.shards, len(self.source.shards))
        shards, part, parts = self._share(worker, order)
        alone = random.Random(f"{self.seed} {epoch} {worker} {self.rank}")

        def passes() -> Iterator[Named]:
            while any(part < len(names) for _, names in shards):
                yield from self._read(shards, part, parts)
            while True:  # more readers than samples: take what others have, too
                yield from self._read(shards, 0, 1)

        return shuffled(passes(), self.buffer, alone.randrange)

    @staticmethod
    def _read(shards: list[tuple[str, list[str]]], part: int, parts: int) -> Iterator[Named]:
        for url, names in shards:
            for index, encoded in enumerate(read_shard(url, len(names))):
                if index % parts == part:
                    yield names[index], encoded

    def _sample(self, found: Named) -> Sample:
        name, encoded = found
        return self.source.sample(name, *self.source.decode(encoded))


def shuffled(items: Iterator[T], size: int, draw: Callable[[int], int]) -> Iterator[T]:
    """Items of an endless iterator, each drawn from ``size`` that are held.

    >>> from itertools import cycle, islice
    >>> list(islice(shuffled(cycle("abc"), 2, lambda n: n - 1), 4))
    ['b', 'c', 'a', 'b']
    """
    held = list(islice(items, size))
    for item in items:
        place = draw(size)
        held[place], leaving = item, held[place]
        yield leaving
