"""Reading, labelling and writing overlap: in order, few at a time; an error ends the threads."""

import threading
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from functools import partial

import pytest

from scenewise.apps.predict.overlap import ahead, at_once, next_ahead, threads


def test_few_items_are_computed_in_advance_and_order_is_kept() -> None:
    started: list[int] = []

    def work(item: int) -> int:
        started.append(item)
        return item * item

    taken = []
    with threads(2) as pool:
        for result in ahead(pool, work, range(9), 2):
            taken.append(result)
            assert len(started) <= len(taken) + 3  # one is handed over, two are ahead, one starts
    assert taken == [item * item for item in range(9)]


def test_an_interrupt_drops_what_has_not_started() -> None:
    done: list[int] = []
    release = threading.Event()

    def work(item: int) -> None:
        release.wait(5)
        done.append(item)

    def interrupted() -> None:
        with threads(1) as pool:
            for item in range(5):
                pool.submit(work, item)
            threading.Timer(0.05, release.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == [0]


@pytest.mark.parametrize("pool", [at_once, partial(threads, 1)])
def test_an_error_is_raised_at_its_turn(
    pool: Callable[[], AbstractContextManager[Executor]],
) -> None:
    with pool() as executor:
        for results in (
            ahead(executor, lambda item: 1 / item, [2, 1, 0, 4], 1),
            next_ahead(executor, (1 / item for item in [2, 1, 0, 4])),
        ):
            assert [next(results), next(results)] == [0.5, 1.0]
            with pytest.raises(ZeroDivisionError):
                next(results)


def test_one_item_is_made_while_the_one_before_is_used() -> None:
    made: list[int] = []

    def make(item: int) -> int:
        made.append(item)
        return item

    with threads(1) as pool:
        for item in next_ahead(pool, map(make, range(5))):
            assert item <= len(made) - 1 <= item + 1
    assert made == [0, 1, 2, 3, 4]
