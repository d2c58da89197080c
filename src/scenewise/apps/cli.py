"""``scenewise COMMAND``: runs the module of a command and reports errors in one sentence."""

import argparse
import errno
import re
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from scenewise._version import __version__
from scenewise.errors import UserError, choose, did_you_mean

COMMANDS = {  # each in the module of its name, its options in scenewise.apps.options
    "demo": "train, test, predict and explain on generated scenes",
    "fit": "train a network",
    "validate": "score a trained network on the validation images",
    "test": "score a trained network on the test images",
    "predict": "label images with a trained network",
    "explain": "show what one pixel of an image attends to, or what moves its score",
    "app": "a page where a click shows what a pixel attends to",
    "check": "read every label and report what is wrong with it",
    "prepare": "rewrite a published dataset once as class-id masks",
    "convert": "a public checkpoint of another project into a model",
    "export": "a model as ONNX, OpenVINO, .pt2 or folder, compared",
    "models": "every network: paper, attention, size, arithmetic, memory",
    "bench": "measure speed and memory on this machine",
}
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.EFBIG)
_OUT_OF_MEMORY = (
    "out of memory; in training choose a smaller batch or crop (--data.batch_size, "
    "--data.crop_size), --model.output_stride 16 or half precision (--trainer.precision "
    "bf16-mixed), otherwise a smaller image or --window"
)
_TRAINING = ("fit", "validate", "test")

_EXAMPLES = """\
examples:
  scenewise demo
  scenewise fit DIR
  scenewise test DIR --model RUN_FOLDER
  scenewise predict street.png --model RUN_FOLDER --out labels

scenewise COMMAND --help lists its options. --debug, anywhere, shows the traceback of an error.
"""


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises a :class:`UserError` instead of printing usage and error."""

    def parse_all(self, words: Sequence[str]) -> argparse.Namespace:
        """The arguments in ``words``; an unknown option is reported with the nearest known one."""
        known = [name[2:] for name in self._option_string_actions if name.startswith("--")]
        for word in words:
            name = word[2:].partition("=")[0]
            if word.startswith("--") and name not in (*known, ""):
                self.error(f"unknown option '--{name}'; {did_you_mean(name, known, '--')}")
        return self.parse_args(words)

    def error(self, message: str) -> NoReturn:
        text = _plain(message).rstrip("; ")
        raise UserError(f"{text}{' See' if text.endswith('?') else '; see'} {self.prog} --help")


def _plain(message: str) -> str:
    """The message of argparse without words of Python.

    >>> _plain("argument --size: invalid int value: 'big'")
    "--size is 'big' but must be a whole number"
    >>> _plain("argument --to: invalid choice: 'danett' (choose from 'mmseg', 'danet')")
    "--to is 'danett'; did you mean 'danet'? Choose one of mmseg, danet"
    """
    message = message.replace("unrecognized arguments: ", "too many arguments: ")
    number = re.fullmatch(r"argument (\S+): invalid (int|float) value: (.*)", message)
    if number:
        kind = "whole number" if number[2] == "int" else "number"
        return f"{number[1]} is {number[3]} but must be a {kind}"
    choice = re.fullmatch(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message)
    if choice:
        names = choice[3].replace("'", "").split(", ")
        return f"{choice[1]} is '{choice[2]}'; {choose(choice[2], names)}"
    return message


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0, 2 for bad input, 130 if interrupted, 143 if terminated (SIGTERM), 1 for
        any other error.

    >>> main(["--version"])
    scenewise ...
    0
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        _run([word for word in words if word != "--debug"])
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning turns it into an exit
            return _fail(_with_notes("interrupted", stop.__context__), 130)
        if type(stop).__name__ == "SIGTERMException":  # Lightning's
            return _fail(_with_notes("terminated (SIGTERM)", stop), 143)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except Exception as error:
        if debug:
            traceback.print_exc()
        message = sentence(error)
        if message is not None:
            return _fail(f"error: {message}", 2)
        what = next(iter(str(error).splitlines()), "")
        hint = "" if debug else "; run it again with --debug to see where"
        return _fail(f"error: unexpected {type(error).__name__}: {what}{hint}", 1)
    return 0


def sentence(error: Exception) -> str | None:
    """The message for the user if the error has a known cause, else None.

    A data loader's worker wraps the text of an error in its own traceback; that is removed.

    >>> sentence(UserError("no such file: 'a.png'; check the path"))
    "no such file: 'a.png'; check the path"
    >>> sentence(ZeroDivisionError("division by zero")) is None
    True
    """
    text = str(error)
    if isinstance(error, MemoryError | RuntimeError) and import_module("scenewise.memory").ran_out(
        error
    ):
        return " ".join(getattr(error, "__notes__", [])) or _OUT_OF_MEMORY
    if "does not have a deterministic implementation" in text:
        return (
            f"{text.split()[0]} has no deterministic implementation on this device; give "
            "--trainer.deterministic warn, which allows others, or train on a CPU"
        )
    if type(error).__name__ == "MisconfigurationException":  # Lightning's UserError
        return " ".join(text.split())
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        file = f"'{error.filename}'" if error.filename else "a file of the run folder"
        return (
            f"{file} cannot be written: {error.strerror}; choose a folder with room that you may "
            "write to"
        )
    if isinstance(error, UserError):
        return " ".join(text.rpartition(f"{UserError.__name__}: ")[2].split())
    return None


def _run(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(_overview(), end="")
        return
    if words[0] == "--version":
        print(f"scenewise {__version__}")
        return
    command, rest = words[0], words[1:]
    if command not in COMMANDS:
        raise UserError(f"unknown command '{command}'; {choose(command, COMMANDS)}")
    if command in _TRAINING:
        import_module("scenewise.apps.fit").run(command, rest)
        return
    parser = _Parser(
        prog=f"scenewise {command}",
        description=COMMANDS[command],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    import_module(f"scenewise.apps.options.{command}").add_arguments(parser)
    args = parser.parse_all(rest)  # before the command is loaded, and PyTorch with it
    import_module(f"scenewise.apps.{command}").run(args)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = "".join(f"  {name:{width}}  {text}\n" for name, text in COMMANDS.items())
    return (
        "usage: scenewise COMMAND [options]\n\n"
        "Train, test, explain and ship scene-segmentation networks built on attention.\n\n"
        f"commands:\n{lines}\n{_EXAMPLES}"
    )


def _with_notes(what: str, error: BaseException) -> str:
    """``what`` happened, and what an interrupted training has saved."""
    return "; ".join([what, *getattr(error, "__notes__", [])])


def _fail(message: str, code: int) -> int:
    print(f"scenewise: {message}", file=sys.stderr)
    return code
