"""The stack on which handlers of signals run in this thread, on Linux."""

import ctypes
import sys


class SignalStack(ctypes.Structure):
    """``stack_t`` of ``sigaltstack``."""

    _fields_ = [
        ("address", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("size", ctypes.c_size_t),
    ]


def current() -> SignalStack:
    """The stack of this thread; empty elsewhere than on Linux."""
    stack = SignalStack()
    if sys.platform == "linux":
        assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    return stack


def restore(stack: SignalStack) -> None:
    """Make it the stack of this thread again."""
    if sys.platform == "linux":
        assert ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None) == 0
