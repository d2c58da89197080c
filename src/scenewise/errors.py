"""``UserError``, the exception for bad input, its hints, and imports of optional packages."""

import difflib
import re
from collections.abc import Iterable
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


def did_you_mean(word: str, names: Iterable[str], prefix: str = "") -> str:
    """The part of a message that names the nearest of ``names``; empty if none is near.

    >>> did_you_mean("danett", ["fcn", "danet", "dranet"])
    "did you mean 'danet'? "
    >>> did_you_mean("x", ["fcn", "danet"])
    ''
    """
    near = difflib.get_close_matches(word, list(names), n=1)
    return f"did you mean '{prefix}{near[0]}'? " if near else ""


def choose(word: str, names: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest, and all.

    >>> choose("danett", ["fcn", "danet"]), choose("x", ["fcn", "danet"])
    ("did you mean 'danet'? Choose one of fcn, danet", 'choose one of fcn, danet')
    """
    known = list(names)
    hint = did_you_mean(word, known)
    return f"{hint}{'C' if hint else 'c'}hoose one of {', '.join(known)}"


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
