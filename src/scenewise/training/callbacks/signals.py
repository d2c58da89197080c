"""Ctrl-C and SIGTERM stop a command within seconds, wherever it is."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

_EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
_PATIENCE = 2.0  # seconds for one operation of PyTorch to end; 5 in all are promised


class Signals:
    """Raise ``KeyboardInterrupt`` or ``SIGTERMException`` in the main thread, but not amid a step.

    Python runs a handler between two operations of PyTorch, and one operation on a large image can
    take a minute. A thread therefore watches: after a few seconds it calls ``save`` and ends the
    process. Ctrl-C ends the process so only with ``exits``.

    Attributes:
        save: saves what there is and returns a sentence about it.
        exits: whether the process is a command, not a user's Python session.
        held: whether the state cannot be saved, because it changes.
    """

    def __init__(self) -> None:
        self.save: Callable[[], str] = lambda: ""
        self.exits = False
        self.held = False
        self._logging = False
        self._pending: int | None = None
        self._obeyed = threading.Event()
        self._lock = threading.RLock()  # the thread has it while it saves
        self._ends: tuple[socket.socket, socket.socket] | None = None

    def install(self, trainer: Trainer) -> None:
        """Handle both signals; Lightning puts the earlier handlers back at the end."""
        if trainer.world_size > 1 or threading.current_thread() is not threading.main_thread():
            return  # several processes stop together, as Lightning does it
        for number in _EXIT_CODES:
            signal.signal(number, self._handle)
        if self._ends is not None:
            return
        self._ends = socket.socketpair()  # Python writes the number of each signal to the second
        self._ends[1].setblocking(False)
        self._earlier = signal.set_wakeup_fd(self._ends[1].fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(self._ends[0],), daemon=True).start()

    def obeyed(self) -> None:
        """The command is ending: further signals, and workers that end with it, do not disturb."""
        if self._ends is None:
            return
        for number in (*_EXIT_CODES, getattr(signal, "SIGCHLD", signal.SIGINT)):
            signal.signal(number, _ignore)
        self.remove()

    def remove(self) -> None:
        """End the thread."""
        self._obeyed.set()
        if self._ends is None:
            return
        signal.set_wakeup_fd(self._earlier)
        with contextlib.suppress(OSError):
            self._ends[1].shutdown(socket.SHUT_RDWR)  # workers have copies of it
        self._ends[1].close()
        self._ends = None

    def hold(self) -> None:
        """From here on the state cannot be saved; a signal waits."""
        self.held = True

    def step_done(self) -> None:
        """The state can be saved, but the step is not logged yet: wait for ``release`` a moment."""
        self.held, self._logging = False, True

    def release(self) -> None:
        """Raise what came meanwhile, and from now on at once."""
        self.held = self._logging = False
        self._check()

    def _check(self) -> None:
        number = self._pending
        if number is None or self.held or self._logging:
            return
        self._pending = None
        raise KeyboardInterrupt if number == signal.SIGINT else SIGTERMException

    def _handle(self, number: int, frame: FrameType | None) -> None:
        with self._lock:
            self._pending = number
        self._check()

    def _watch(self, end: socket.socket) -> None:
        """Of the thread: wait for a signal, give the command some seconds, then end it."""
        with end:
            while data := end.recv(1):
                if data[0] in _EXIT_CODES and not self._obeyed.wait(_PATIENCE):
                    self._insist(data[0])

    def _insist(self, number: int) -> None:
        while self.held and not self._obeyed.wait(0.02):
            pass  # a step, or a checkpoint that is written
        self._logging = False  # it is logged since, and a batch is loaded
        os.kill(os.getpid(), number)
        if self._obeyed.wait(_PATIENCE / 2):
            return
        with self._lock:
            if not self._obeyed.is_set():
                self._obeyed.set()  # once is enough
                self._end(number)

    def _end(self, number: int) -> None:
        text = self.save()
        if number == signal.SIGINT and not self.exits:
            return  # KeyboardInterrupt follows as soon as Python runs again
        what = "interrupted" if number == signal.SIGINT else "terminated (SIGTERM)"
        print(f"\nscenewise: {what}; {text}" if text else f"\nscenewise: {what}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_EXIT_CODES[signal.Signals(number)])


def _ignore(number: int, frame: FrameType | None) -> None:
    """A handler that does nothing; for SIG_IGN Python would print that a signal was lost."""


class ObeySignals(Callback):
    """Install :class:`Signals` for a training, a validation or a test.

    Several processes stop together after a batch, and here between two images of a validation.

    Args:
        signals: of this run.
    """

    def __init__(self, signals: Signals) -> None:
        self.signals = signals

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the first validation of a training."""
        self.signals.install(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the first step."""
        self.signals.install(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the images of ``validate``."""
        if trainer.state.fn != TrainerFn.FITTING:
            self.signals.install(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the images of ``test``."""
        self.signals.install(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Raise what came in the step before."""
        self.signals.release()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise what came in the last step."""
        self.signals.release()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish: the average of the weights may become the weights."""
        self.signals.hold()

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop several processes, where no one waits for the others."""
        if trainer.received_sigterm:
            raise SIGTERMException

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop several processes."""
        self.on_validation_batch_start(trainer, pl_module, batch, batch_idx)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The training is saved, and Lightning has put the earlier handlers back."""
        self.signals.remove()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The command is done."""
        self.signals.remove()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save first of all when it is interrupted or terminated; the note says what exists."""
        self.signals.obeyed()
        if isinstance(exception, KeyboardInterrupt | SIGTERMException):
            text = self.signals.save()
            if text:
                exception.add_note(text)
