"""Samplers: shuffling with one seed for each sample, and evaluation without repeated samples.

The seed of a sample is made from the run's seed, the epoch and the sample's index. So its random
changes depend neither on the number of workers nor of processes, and a run that is resumed in the
middle of an epoch sees the samples that the interrupted run would have seen.
"""

from collections.abc import Callable, Iterator, Sized
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from scenewise.data.cached_views import CachedViews
from scenewise.data.datasets import Sample

_Draw = tuple[int, int]  # index of a sample, and the seed of its random changes


class TrainSampler(DistributedSampler[Any]):
    """Every index once an epoch, shuffled by seed and epoch, divided among the processes.

    It is a ``DistributedSampler`` so that Lightning keeps it and sets its epoch.

    Attributes:
        start: number of indices that the next pass skips.

    >>> sampler = TrainSampler(range(6), num_replicas=1, rank=0, seed=0)
    >>> whole = list(sampler)
    >>> sampler.start = 4
    >>> list(sampler) == whole[4:], len(sampler)
    (True, 6)
    """

    def __init__(self, dataset: Sized, num_replicas: int, rank: int, seed: int) -> None:
        super().__init__(dataset, num_replicas, rank, seed=seed)  # type: ignore[arg-type]
        self.start = 0

    def __iter__(self) -> Iterator[_Draw]:
        for index in islice(super().__iter__(), self.start, None):
            yield index, sample_seed(self.seed, self.epoch, index)


class ViewSampler(TrainSampler):
    """The same order, as rows of :class:`CachedViews`: epoch e reads view e modulo their number.

    So the first epochs see what they would see without a cache, later ones see it again.
    """

    def __init__(self, views: CachedViews, num_replicas: int, rank: int, seed: int) -> None:
        super().__init__(views, num_replicas, rank, seed)
        self._views = views

    def __iter__(self) -> Iterator[Any]:
        first = self.epoch % self._views.views * len(self._views)  # row of the view's first image
        for index, _ in super().__iter__():
            yield first + index


class EvalSampler(DistributedSampler[Any]):
    """Every index in exactly one process, in order; some processes get one index more.

    PyTorch's own sampler repeats indices until all processes have equally many, which counts some
    images twice. It is a ``DistributedSampler`` so that Lightning keeps it.

    >>> [list(EvalSampler(range(5), num_replicas=2, rank=r)) for r in (0, 1)]
    [[0, 2, 4], [1, 3]]
    """

    def __init__(self, dataset: Sized, num_replicas: int, rank: int) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=False)  # type: ignore[arg-type]
        self._indices = range(rank, len(dataset), num_replicas)

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)


class TrainLoader(DataLoader[Any]):
    """A ``DataLoader`` over a :class:`TrainSampler` that starts where the training stopped.

    Lightning asks for the iterator before it has restored a checkpoint, and workers start to read
    at once. Here they start when the first batch is requested.

    Args:
        dataset: the samples, indexed by what the sampler yields.
        batch_size: of one process.
        sampler: the order of the samples.
        batches_done: returns how many batches of this epoch have been trained on.
        options: of the ``DataLoader``.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int,
        sampler: TrainSampler,
        batches_done: Callable[[], int],
        **options: Any,
    ) -> None:
        super().__init__(dataset, batch_size, sampler=sampler, **options)
        self._batches_done = batches_done

    def __iter__(self) -> Any:
        def batches() -> Iterator[Any]:  # a generator: nothing runs before the first batch
            sampler = cast(TrainSampler, self.sampler)
            sampler.start = self._batches_done() * cast(int, self.batch_size)
            yield from DataLoader.__iter__(self)

        return batches()


class SeededDataset(Dataset[Sample]):
    """A dataset indexed by (index, seed); the global generator is left unchanged."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getitem__(self, draw: _Draw) -> Sample:
        index, seed = draw
        with torch.random.fork_rng(devices=()):  # the CPU's generator alone
            torch.default_generator.manual_seed(seed)
            return cast(Sample, self.dataset[index])


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """63 bits that differ for every (seed, epoch, index).

    >>> sample_seed(0, 1, 2) == sample_seed(0, 2, 1)
    False
    """
    bits = np.random.SeedSequence([abs(seed), epoch, index]).generate_state(1, np.uint64)[0]
    return int(bits >> np.uint64(1))  # PyTorch takes a signed number
