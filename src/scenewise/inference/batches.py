"""Batches of items that are alike, as they come, with the results in the order of the items."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_alike(
    function: Callable[[list[_Item]], list[_Result]],
    items: Iterable[_Item],
    key: Callable[[_Item], Hashable],
    size: int,
) -> list[_Result]:
    """Apply ``function`` to lists of up to ``size`` items with the same ``key``.

    A list is handed over as soon as it is full, so at most ``size`` items of each key wait.

    Returns:
        The results, one for each item, in the order of the items.

    >>> map_alike(lambda words: [w + str(len(words)) for w in words], "abcAB", str.isupper, 2)
    ['a2', 'b2', 'c1', 'A2', 'B2']
    """
    waiting: dict[Hashable, list[tuple[int, _Item]]] = {}
    results: dict[int, _Result] = {}

    def apply(batch: list[tuple[int, _Item]]) -> None:
        values = function([item for _, item in batch])
        results.update(zip((index for index, _ in batch), values, strict=True))

    for index, item in enumerate(items):
        batch = waiting.setdefault(key(item), [])
        batch.append((index, item))
        if len(batch) == size:
            apply(waiting.pop(key(item)))
    for batch in waiting.values():
        apply(batch)
    return [results[index] for index in range(len(results))]


def alike(
    items: Iterable[_Item], key: Callable[[_Item], Hashable], size: Callable[[_Item], int]
) -> Iterator[list[_Item]]:
    """Lists of consecutive items with the same ``key``, in order, of up to ``size`` of the first.

    An item whose key is None is alone.

    >>> list(alike("abcABC", str.isupper, lambda word: 2))
    [['a', 'b'], ['c'], ['A', 'B'], ['C']]
    """
    batch: list[_Item] = []
    for item in items:
        if batch and (key(item) is None or key(item) != key(batch[0])):
            yield batch
            batch = []
        batch.append(item)
        if len(batch) >= size(batch[0]):
            yield batch
            batch = []
    if batch:
        yield batch
