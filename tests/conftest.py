"""One thread per test process, as pytest-xdist uses every core; its signal stack is kept."""

import logging
from collections.abc import Iterator

import pytest
import torch

from tests import signal_stack

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _first_stack() -> signal_stack.SignalStack:
    return signal_stack.current()


@pytest.fixture(autouse=True)
def _kept_stack(_first_stack: signal_stack.SignalStack) -> Iterator[None]:
    """OpenVINO and Ray give the thread signal stacks of their own, and may unmap them.

    The next signal that has a handler would end the process without a message.
    """
    yield
    signal_stack.restore(_first_stack)


def _silenced() -> list[str]:
    """Loggers of ours that pass no warnings to the root, and its handlers that take none."""
    loggers = logging.root.manager.loggerDict
    ours = [logger for name, logger in loggers.items() if name.split(".")[0] == "scenewise"]
    names = [
        logger.name
        for logger in ours
        if isinstance(logger, logging.Logger)
        and (logger.disabled or not logger.propagate or not logger.isEnabledFor(logging.WARNING))
    ]
    return names + [str(h) for h in logging.root.handlers if h.level > logging.WARNING]


@pytest.fixture(autouse=True)
def _warnings_are_logged() -> Iterator[None]:
    """A test that leaves our loggers silent fails, rather than one that comes after it."""
    yield
    assert _silenced() == []
