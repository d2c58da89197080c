"""Long work: one piece at a time, a bounded queue, progress, an early end."""

import asyncio
import threading

import pytest

from scenewise.apps.app.work import MAX_WAITING, Busy, Stopped, Work


@pytest.fixture
def work():
    made = Work()
    yield made
    made.close()


def test_one_at_a_time_and_in_order(work):
    running, most, order = [], [], []

    def step(k):
        def run(report):
            running.append(k)
            most.append(len(running))
            order.append(k)
            running.remove(k)
            return k * k

        return run

    jobs = [work.start(step(k)) for k in range(9)]
    assert [job.future.result(10) for job in jobs] == [k * k for k in range(9)]
    assert order == list(range(9))
    assert max(most) == 1


def test_progress_and_stop(work):
    begun, go = threading.Event(), threading.Event()

    def step(report):
        report(0.25)
        begun.set()
        go.wait(10)
        report(0.5)

    job = work.start(step)
    assert begun.wait(10)
    assert job.done == 0.25
    job.stop()
    go.set()
    with pytest.raises(Stopped):
        job.future.result(10)
    assert work.start(lambda report: 7).future.result(10) == 7


def test_the_queue_is_bounded(work):
    go = threading.Event()
    jobs = [work.start(lambda report: go.wait(10)) for _ in range(1 + MAX_WAITING)]
    with pytest.raises(Busy, match="try again"):
        work.start(lambda report: None)
    jobs[5].stop()  # it waits, so it never starts
    assert jobs[5].future.cancelled()
    more = work.start(lambda report: 1)
    go.set()
    assert more.future.result(10) == 1


def test_work_of_a_caller_who_left_is_stopped(work):
    begun, ended = threading.Event(), threading.Event()

    def step(report):
        try:
            while True:
                report(0.0)
                begun.set()
        finally:
            ended.set()

    async def leave():
        task = asyncio.create_task(work.run(step))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert ended.wait(10)
