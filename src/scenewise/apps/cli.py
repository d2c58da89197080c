"""The command ``scenewise VERB``: finds the verb's module and turns errors into one sentence."""

import argparse
import difflib
import errno
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from scenewise._version import __version__
from scenewise.errors import UserError

VERBS: dict[str, tuple[str, str]] = {
    "demo": ("scenewise.apps.demo", "train, test, predict and explain on generated scenes"),
    "fit": ("scenewise.apps.fit", "train a network"),
    "validate": ("scenewise.apps.fit", "score a trained network on the validation pictures"),
    "test": ("scenewise.apps.fit", "score a trained network on the test pictures"),
    "predict": ("scenewise.apps.predict", "label pictures with a trained network"),
    "explain": ("scenewise.apps.explain", "show what one pixel of a picture attends to"),
    "app": ("scenewise.apps.app", "a page where a click shows what a pixel attends to"),
    "check": ("scenewise.apps.check", "read every label and say what is wrong with it"),
    "prepare": ("scenewise.apps.prepare", "rewrite a published data set once as class-id masks"),
    "convert": ("scenewise.apps.convert", "a public checkpoint of another project into a model"),
    "export": ("scenewise.apps.export", "a model as ONNX, OpenVINO, .pt2 or folder, compared"),
    "models": (
        "scenewise.apps.models",
        "every network: paper, attention, size, arithmetic, memory",
    ),
    "bench": ("scenewise.apps.bench", "measure speed and memory on this machine"),
}
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.EFBIG)
OUT_OF_MEMORY = (
    "out of memory; in training choose a smaller batch or crop (--data.batch_size, "
    "--data.crop_size), --model.output_stride 16 or half precision (--trainer.precision "
    "bf16-mixed), elsewhere a smaller picture or --window"
)
TRAINING = ("fit", "validate", "test")

EXAMPLES = """\
examples:
  scenewise demo
  scenewise fit --data.format folder --data.root DIR
  scenewise test --model RUN_FOLDER --data.format folder --data.root DIR
  scenewise predict street.png --model RUN_FOLDER --out labels

scenewise VERB --help tells more. --debug, anywhere, shows the traceback of an error.
"""


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong argument is a :class:`UserError` instead of two printed texts."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is 0, 2 for bad input, 130 when stopped, 143 when told to
    (SIGTERM), 1 for anything else.

    >>> main(["--version"])
    scenewise ...
    0
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        _run([word for word in words if word != "--debug"])
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning's way to stop
            return _fail("stopped", 130)
        if type(stop).__name__ == "SIGTERMException":  # Lightning's
            return _fail("told to stop; --ckpt_path last goes on from here", 143)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except Exception as error:
        if debug:
            traceback.print_exc()
        told = sentence(error)
        if told is not None:
            return _fail(f"error: {told}", 2)
        what = next(iter(str(error).splitlines()), "")
        hint = "" if debug else "; run it again with --debug to see where"
        return _fail(f"error: unexpected {type(error).__name__}: {what}{hint}", 1)
    return 0


def sentence(error: Exception) -> str | None:
    """What to tell the user about an error that has a known cause, else None.

    A data loader's worker wraps the text of an error in its own traceback; that is taken off.

    >>> sentence(UserError("no such file: 'a.png'; check the path"))
    "no such file: 'a.png'; check the path"
    >>> sentence(ZeroDivisionError("division by zero")) is None
    True
    """
    text = str(error)
    if isinstance(error, MemoryError | RuntimeError) and import_module("scenewise.memory").ran_out(
        error
    ):
        return " ".join(getattr(error, "__notes__", [])) or OUT_OF_MEMORY
    if "does not have a deterministic implementation" in text:
        return (
            f"{text.split()[0]} has no deterministic form on this device; give "
            "--trainer.deterministic warn, which uses those that there are, or train on a CPU"
        )
    if type(error).__name__ == "MisconfigurationException":  # Lightning's word for a UserError
        return " ".join(text.split())
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return (
            f"'{error.filename or 'a file'}' cannot be written: {error.strerror}; choose a folder "
            "with room that you may write to"
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
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UserError(f"no verb '{verb}'; {hint}There are {', '.join(VERBS)}")
    module = import_module(VERBS[verb][0])
    if verb in TRAINING:
        module.run(verb, rest)
        return
    parser = Parser(
        prog=f"scenewise {verb}",
        description=VERBS[verb][1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    module.run(parser.parse_args(rest))


def _overview() -> str:
    width = max(map(len, VERBS))
    verbs = "".join(f"  {verb:{width}}  {text}\n" for verb, (_, text) in VERBS.items())
    return (
        "usage: scenewise VERB [options]\n\n"
        "Train, test, explain and ship scene-segmentation networks built on attention.\n\n"
        f"verbs:\n{verbs}\n{EXAMPLES}"
    )


def _fail(message: str, code: int) -> int:
    print(f"scenewise: {message}", file=sys.stderr)
    return code
