"""Streaming batches from shards, for datasets that do not fit on the disk."""

import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from scenewise.data.datasets import Sample, collate
from scenewise.data.shards import Encoded, ShardSet, read_shard

_Batch = dict[str, Tensor | list[str]]
_Named = tuple[str, Encoded]
_Shards = list[tuple[str, list[str]]]  # URL and names
_T = TypeVar("_T")


class ShardStream(IterableDataset[_Batch]):
    """Whole batches of a :class:`ShardSet`; ``len`` is exactly how many this process will get.

    Every worker of every process reads its own shards. If there are fewer shards than readers, all
    of them read all shards and each keeps every n-th sample.

    Evaluation (no ``buffer``): in order, each sample in exactly one batch of one process.

    Training: the order of the shards is drawn anew for each epoch, and samples are drawn at random
    from a buffer. All processes get equally many full batches, so a reader with few samples starts
    again and one with many stops early; what it skipped comes in other epochs.

    Args:
        source: the split; its ``transform`` is applied.
        batch_size: samples in a batch.
        workers: number of the data loader's workers, 0 or more.
        world: number of processes.
        rank: of this process.
        buffer: encoded samples that each worker holds to draw from; 0 for evaluation.
        seed: of the orders.
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

    def __iter__(self) -> Iterator[_Batch]:
        info = get_worker_info()
        worker = 0 if info is None else info.id
        epoch, self.epoch = self.epoch, self.epoch + 1
        samples = self._endless(worker, epoch) if self.buffer else self._once(worker)
        for _ in range(self._batches(worker)):
            yield collate([self._decode(named) for named in islice(samples, self.batch_size)])

    def _batches(self, worker: int) -> int:
        if not self.buffer:
            return -(-self._samples(worker) // self.batch_size)  # rounded up
        total = max(1, len(self.source) // self.world // self.batch_size)  # of each process
        return total // self.workers + (worker < total % self.workers)  # the first get one more

    def _samples(self, worker: int) -> int:
        """The number of samples of a worker in an evaluation."""
        shards, part, parts = self._share(worker, self.source.shards)
        return sum(len(range(part, len(names), parts)) for _, names in shards)

    def _share(self, worker: int, shards: _Shards) -> tuple[_Shards, int, int]:
        """The shards that a worker reads, and which of how many parts of their samples."""
        reader, readers = worker * self.world + self.rank, self.workers * self.world
        if len(shards) >= readers:
            return shards[reader::readers], 0, 1
        return shards, reader, readers

    def _once(self, worker: int) -> Iterator[_Named]:
        return self._read(*self._share(worker, self.source.shards))

    def _endless(self, worker: int, epoch: int) -> Iterator[_Named]:
        shared = random.Random(f"{self.seed} {epoch}")  # the same in all readers
        order = shared.sample(self.source.shards, len(self.source.shards))
        shards, part, parts = self._share(worker, order)
        own = random.Random(f"{self.seed} {epoch} {worker} {self.rank}")

        def passes() -> Iterator[_Named]:
            while any(part < len(names) for _, names in shards):
                yield from self._read(shards, part, parts)
            while True:  # more readers than samples: read all of them
                yield from self._read(shards, 0, 1)

        return _shuffled(passes(), self.buffer, own.randrange)

    @staticmethod
    def _read(shards: _Shards, part: int, parts: int) -> Iterator[_Named]:
        for url, names in shards:
            for index, encoded in enumerate(read_shard(url, len(names))):
                if index % parts == part:
                    yield names[index], encoded

    def _decode(self, named: _Named) -> Sample:
        name, encoded = named
        return self.source.sample(name, *self.source.decode(encoded))


def _shuffled(items: Iterator[_T], size: int, draw: Callable[[int], int]) -> Iterator[_T]:
    """Items of an endless iterator, each drawn from a buffer of ``size``.

    >>> from itertools import cycle, islice
    >>> list(islice(_shuffled(cycle("abc"), 2, lambda n: n - 1), 4))
    ['b', 'c', 'a', 'b']
    """
    buffer = list(islice(items, size))
    for item in items:
        k = draw(size)
        yield buffer[k]
        buffer[k] = item
