"""Shared by the tests of untrusted files: a bound on memory."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def bounded(megabytes: float) -> Iterator[None]:
    """Fail if Python's memory grows by more."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < megabytes * 2**20
    finally:
        tracemalloc.stop()
