"""``UserError``, the exception for bad input, and imports of optional packages."""

import re
from importlib import import_module
from typing import Any


class UserError(Exception):
    """Bad input, reported in one sentence: what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2.

    >>> raise UserError("model folder 'x' not found; give the folder that fit wrote")
    Traceback (most recent call last):
    scenewise.errors.UserError: model folder 'x' not found; give the folder that fit wrote

    The sentence may quote an untrusted file: line ends become spaces, and control characters of a
    terminal are escaped.

    >>> print(UserError("unknown class 'a" + chr(10) + "b" + chr(27) + "'"))
    unknown class 'a b\\x1b'
    """

    def __init__(self, sentence: str) -> None:
        one_line = re.sub(r"\s*[\r\n]\s*", " ", sentence)
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in one_line))


def import_extra(package: str, extra: str) -> Any:
    """Import an optional package, which the extra ``extra`` installs.

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
