"""Reading, labelling and writing at the same time: in order, with few images in memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@contextmanager
def threads(count: int) -> Iterator[Executor]:
    """A pool of ``count`` threads; after an error or Ctrl-C, what has not started is dropped."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)  # waits for what runs, so that files are whole


class _AtOnce(Executor):
    """Computes what is submitted at once, in the thread that submits it."""

    def submit(self, function: Callable[..., _Out], /, *args: Any, **kwargs: Any) -> "Future[_Out]":
        future: Future[_Out] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def at_once() -> Iterator[Executor]:
    """No threads: for a network on the CPU, which has all cores busy by itself.

    >>> with at_once() as pool:
    ...     list(ahead(pool, abs, [-3, 1, -2], 1))
    [3, 1, 2]
    """
    yield _AtOnce()


def ahead(
    pool: Executor, function: Callable[[_In], _Out], items: Iterable[_In], count: int
) -> Iterator[_Out]:
    """``map``, in order, with at most ``count`` items computed in advance.

    >>> with threads(2) as pool:
    ...     list(ahead(pool, abs, [-3, 1, -2], 1))
    [3, 1, 2]
    """
    waiting: deque[Future[_Out]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > count:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def next_ahead(pool: Executor, items: Iterator[_Out]) -> Iterator[_Out]:
    """The items, each made by ``next`` in the pool while the one before is used.

    >>> with threads(1) as pool:
    ...     list(next_ahead(pool, map(abs, [-3, 1, -2])))
    [3, 1, 2]
    """
    end = object()
    future: Future[Any] = pool.submit(next, items, end)
    while (item := future.result()) is not end:
        future = pool.submit(next, items, end)
        yield item
