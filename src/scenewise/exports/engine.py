"""What every runtime looks like from outside."""

from importlib import import_module
from typing import Any, Protocol

from torch import Tensor

from scenewise.errors import UserError


class Engine(Protocol):
    """A graph in its runtime: input tensor on the CPU -> output tensor on the CPU."""

    def __call__(self, images: Tensor) -> Tensor: ...


def needed(package: str) -> Any:
    """Import a package of the extra ``export``.

    Raises:
        UserError: it is not installed.

    >>> needed("no_such_package")
    Traceback (most recent call last):
    scenewise.errors.UserError: this needs no_such_package; pip install 'scenewise[export]'
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise UserError(f"this needs {error.name}; pip install 'scenewise[export]'") from error
