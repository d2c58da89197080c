"""Long work of the page: one piece at a time, a bounded queue, progress, and an early end."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from scenewise.apps.app.state import Report
from scenewise.errors import UserError

MAX_WAITING = 32
_T = TypeVar("_T")


class Busy(UserError):
    """Too much work is waiting."""


class Stopped(UserError):
    """The visitor stopped the work."""


@dataclass(eq=False)
class Job(Generic[_T]):
    """A piece of work, waiting or running.

    Attributes:
        done: the share that is done, 0..1.
        stopped: whether it ends before its next layer.
        future: its result.
    """

    done: float = 0.0
    stopped: bool = False
    future: "Future[_T]" = field(default_factory=Future)

    def report(self, done: float) -> None:
        """Called by the work before each layer.

        Raises:
            Stopped: nobody waits for the result any more.
        """
        if self.stopped:
            raise Stopped("stopped; nothing was changed")
        self.done = done

    def stop(self) -> None:
        """End it before its next layer; if it did not start yet, it never does."""
        self.stopped = True
        self.future.cancel()


@dataclass(eq=False)
class Work:
    """The queue of long work."""

    _thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="work")
    )
    _jobs: "set[Job[object]]" = field(default_factory=set)

    def start(self, step: Callable[[Report], _T]) -> Job[_T]:
        """Run ``step`` when all earlier work is done; it gets a report to call.

        Raises:
            Busy: too much work is waiting.
        """
        waiting = [job for job in list(self._jobs) if not job.future.done()]
        if len(waiting) > MAX_WAITING:  # one of them is running
            raise Busy("too much work is waiting; try again in a few seconds")
        job: Job[_T] = Job()
        job.future = self._thread.submit(lambda: step(job.report))
        self._jobs.add(job)  # type: ignore[arg-type]
        job.future.add_done_callback(lambda _: self._jobs.discard(job))
        return job

    async def run(self, step: Callable[[Report], _T]) -> _T:
        """The result of ``step``; if the caller is cancelled, the work is stopped."""
        job = self.start(step)
        try:
            return await asyncio.wrap_future(job.future)
        finally:
            job.stop()

    def close(self) -> None:
        """Stop everything."""
        for job in list(self._jobs):
            job.stop()
        self._thread.shutdown(wait=False, cancel_futures=True)
