"""Training pictures in an order, and with random changes, that do not depend on what ran before.

Every draw of a picture has a seed of its own, made from the run's seed, the epoch and the picture.
So neither the number of workers nor of processes changes a picture, and a run that is resumed in
the middle of an epoch goes on with the pictures that it would have seen.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from scenewise.data.datasets import Sample, SegmentationDataset


@dataclass(frozen=True)
class Draw:
    """Image ``index``, with the random changes of ``seed``."""

    index: int
    seed: int


class TrainOrder(DistributedSampler[Any]):
    """Every picture once an epoch, shuffled by seed and epoch, divided among the processes.

    It is a ``DistributedSampler`` so that Lightning leaves it in place and tells it the epoch.

    Attributes:
        start: number of draws that the next pass leaves out.

    >>> order = TrainOrder(range(6), num_replicas=1, rank=0, seed=0)
    >>> whole = list(order)
    >>> order.start = 4
    >>> list(order) == whole[4:], len(order)
    (True, 6)
    """

    def __init__(
        self, dataset: SegmentationDataset, num_replicas: int, rank: int, seed: int
    ) -> None:
        super().__init__(dataset, num_replicas, rank, seed=seed)
        self.start = 0

    def __iter__(self) -> Iterator[Draw]:
        for index in islice(super().__iter__(), self.start, None):
            yield Draw(index, draw_seed(self.seed, self.epoch, index))


def draw_seed(seed: int, epoch: int, index: int) -> int:
    """A number of 63 bits that differs for every (seed, epoch, index), none negative.

    >>> draw_seed(0, 1, 2) == draw_seed(0, 2, 1)
    False
    """
    words = np.random.SeedSequence([abs(seed), epoch, index]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


class Seeded(Dataset[Sample]):
    """A data set whose item is a :class:`Draw`; the global generator is left as it was."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> Sample:
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(draw.seed)
            return self.dataset[draw.index]


class TrainLoader(DataLoader[Sample]):
    """A ``DataLoader`` over a :class:`TrainOrder` that starts where the training stands.

    Lightning asks for the iterator before it has restored a checkpoint, and workers begin to read
    at once. Here they begin when the first batch is wanted.

    Args:
        dataset: the pictures.
        batch_size: of one process.
        order: which picture is drawn when.
        done: tells how many batches of this epoch have been trained on.
        options: of the ``DataLoader``.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        batch_size: int,
        order: TrainOrder,
        done: Callable[[], int],
        **options: Any,
    ) -> None:
        super().__init__(Seeded(dataset), batch_size, sampler=order, **options)
        self.done = done

    def __iter__(self) -> Any:
        def batches() -> Iterator[Sample]:
            order = cast(TrainOrder, self.sampler)
            order.start = self.done() * cast(int, self.batch_size)
            yield from DataLoader.__iter__(self)

        return batches()
