"""One thread per test process, as pytest-xdist uses every core; its signal stack is kept."""

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
