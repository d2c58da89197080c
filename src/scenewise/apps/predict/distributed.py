"""Prediction by several processes: the share of each, and the sum of their counts."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import TypeVar

import torch
from torch import distributed

from scenewise.errors import UserError

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Worker:
    """The process ``rank`` of ``world_size``, started by torchrun or a scheduler.

    >>> list(Worker(1, 3).share("abcde"))
    ['b', 'e']
    """

    rank: int = 0
    world_size: int = 1

    @classmethod
    def from_environment(cls) -> "Worker":
        """As RANK and WORLD_SIZE say; without both of them, the only process.

        Raises:
            UserError: they are not valid numbers.
        """
        rank, size = (os.environ.get(name) for name in ("RANK", "WORLD_SIZE"))
        if rank is None and size is None:
            return cls()
        if not (str(rank).isdigit() and str(size).isdigit() and int(rank or 0) < int(size or 0)):
            raise UserError(
                f"RANK is {rank} and WORLD_SIZE {size}; start the processes with torchrun, or set "
                "both: RANK from 0 to WORLD_SIZE - 1"
            )
        return cls(int(rank or 0), int(size or 0))

    @property
    def is_connected(self) -> bool:
        """Whether the processes can communicate: torchrun sets MASTER_ADDR."""
        return self.world_size > 1 and "MASTER_ADDR" in os.environ

    def share(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """Every ``world_size``-th item, starting with item ``rank``."""
        return islice(items, self.rank, None, self.world_size)

    def sum_counts(self, counts: Sequence[int]) -> list[int]:
        """The counts summed over all processes; waits for them, so that none exits early.

        Without a connection it does not wait and returns this process's counts.
        """
        if not self.is_connected:
            return list(counts)
        distributed.init_process_group("gloo", timeout=timedelta(days=30))  # others may be slow
        total = torch.tensor(counts)
        distributed.all_reduce(total)
        distributed.destroy_process_group()
        return [int(count) for count in total]
