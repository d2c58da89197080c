"""The part of a job that is this process's, where torchrun or a scheduler has started several."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import TypeVar

import torch
from torch import distributed

from scenewise.errors import UserError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Processes:
    """Process number ``rank`` of ``size``.

    >>> list(Processes(1, 3).share("abcde"))
    ['b', 'e']
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def from_environment(cls) -> "Processes":
        """As RANK and WORLD_SIZE say; without them there is one.

        Raises:
            UserError: they are no such numbers.
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

    def share(self, items: Iterable[Item]) -> Iterator[Item]:
        """Every ``size``-th item."""
        return islice(items, self.rank, None, self.size)

    def sums(self, counts: Sequence[int]) -> list[int]:
        """Wait for the others, so that none ends early in an error, and add up their counts.

        Without a meeting point (MASTER_ADDR, which torchrun sets) nobody waits, and the counts are
        this process's own.
        """
        if not self.together:
            return list(counts)
        distributed.init_process_group("gloo", timeout=timedelta(days=30))
        total = torch.tensor(counts)
        distributed.all_reduce(total)
        distributed.destroy_process_group()
        return [int(count) for count in total]

    @property
    def together(self) -> bool:
        """Whether the processes can meet."""
        return self.size > 1 and "MASTER_ADDR" in os.environ
