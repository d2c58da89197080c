"""Ctrl-C and SIGTERM: raised at once, after a step, or by a thread that ends the process."""

import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException

from scenewise.training.callbacks import signals as module
from scenewise.training.callbacks.signals import Signals

ERRORS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SIGTERMException}


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[Signals]:
    handlers = {number: signal.getsignal(number) for number in (*ERRORS, signal.SIGCHLD)}
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    signals = Signals()
    signals.install(SimpleNamespace(world_size=1))  # type: ignore[arg-type]
    yield signals
    signals.remove()
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ERRORS)
def test_a_signal_is_raised_at_once(number: int, signals: Signals) -> None:
    with pytest.raises(ERRORS[signal.Signals(number)]):
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ERRORS)
def test_a_step_is_finished_and_logged_first(number: int, signals: Signals) -> None:
    signals.hold()
    os.kill(os.getpid(), number)
    signals.step_done()
    with pytest.raises(ERRORS[signal.Signals(number)]):
        signals.release()


@pytest.mark.parametrize("number", ERRORS)
def test_loading_the_next_batch_is_not_waited_for(number: int, signals: Signals) -> None:
    signals.hold()
    os.kill(os.getpid(), number)
    signals.step_done()
    start = time.monotonic()
    with pytest.raises(ERRORS[signal.Signals(number)]):
        time.sleep(60)
    assert time.monotonic() - start < 30


def stuck(number: int) -> None:
    """One operation of a second or more, in which Python runs no handler."""
    threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 3_000_000)


@pytest.mark.parametrize(
    ("number", "exits", "code"),
    [(signal.SIGTERM, False, 143), (signal.SIGINT, True, 130), (signal.SIGINT, False, None)],
)
def test_one_long_operation_is_not_waited_for(
    number: int,
    exits: bool,
    code: int | None,
    signals: Signals,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    events: list[Any] = []

    def save() -> str:
        events.append("saved")
        return "step 7 is saved"

    signals.save, signals.exits = save, exits
    monkeypatch.setattr(module.os, "_exit", events.append)
    with pytest.raises(ERRORS[signal.Signals(number)]):  # the exit did not end this process
        stuck(number)
    assert events == ["saved", code] if code else ["saved"]
    assert ("step 7 is saved" in capsys.readouterr().err) == (code is not None)


def test_a_second_signal_does_not_disturb_the_end(signals: Signals) -> None:
    signals.obeyed()
    for number in (*ERRORS, signal.SIGCHLD):
        os.kill(os.getpid(), number)
