"""The one exception a user can cause."""

import re
from importlib import import_module
from typing import Any


class UserError(Exception):
    """Bad input, told in one sentence: what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2.

    >>> raise UserError("no such model folder: 'x'; give the folder that fit wrote")
    Traceback (most recent call last):
    scenewise.errors.UserError: no such model folder: 'x'; give the folder that fit wrote

    What stands in a stranger's file may be in the sentence: line ends become spaces, and characters
    that steer a terminal are spelt out.

    >>> print(UserError("no class 'a" + chr(10) + "b" + chr(27) + "'"))
    no class 'a b\\x1b'
    """

    def __init__(self, sentence: str) -> None:
        one_line = re.sub(r"\s*[\r\n]\s*", " ", sentence)
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in one_line))


def import_extra(package: str, extra: str) -> Any:
    """Import a package that the extra ``extra`` installs.

    Raises:
        UserError: it is not installed.

    >>> import_extra("no_such_package", "export")
    Traceback (most recent call last):
    scenewise.errors.UserError: this needs no_such_package; pip install 'scenewise[export]'
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise UserError(f"this needs {error.name}; pip install 'scenewise[{extra}]'") from error
