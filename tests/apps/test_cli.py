"""The command line: commands, exit codes, and one sentence for each error."""

import argparse
import subprocess
import sys
import types
from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from scenewise import __version__
from scenewise.apps import cli
from scenewise.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=3)
    parser.add_argument("--colour", choices=("red", "green"))


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[[argparse.Namespace], None]], None]:
    """Register a function as the command ``paint``, which takes --size."""

    def install(run: Callable[[argparse.Namespace], None]) -> None:
        options, module = types.ModuleType("options"), types.ModuleType("paint")
        options.add_arguments = add_arguments
        module.run = run
        monkeypatch.setitem(sys.modules, "scenewise.apps.options.paint", options)
        monkeypatch.setitem(sys.modules, "scenewise.apps.paint", module)
        monkeypatch.setitem(cli.COMMANDS, "paint", "paint an image")

    return install


def raising(error: BaseException) -> Callable[[argparse.Namespace], None]:
    def run(args: argparse.Namespace) -> None:
        raise error

    return run


# What is answered before PyTorch is loaded, with the exit code.
AT_ONCE = {
    "": 0,
    "--help": 0,
    "--version": 0,
    "predikt street.png": 2,
    "predict --windw 3": 2,
    "models": 0,
    "models danett": 2,
    "fit DIR --lr 0.1": 2,
    "fit DIR --model.lr fast": 2,
    "fit DIR --data.format citiscapes": 2,
    **{f"{command} --help": 0 for command in cli.COMMANDS},
}


def test_help_and_wrong_arguments_load_no_torch() -> None:
    code = (
        "import sys; from scenewise.apps.cli import main\n"
        f"codes = [main(words.split()) for words in {list(AT_ONCE)}]\n"
        "heavy = [m for m in ('torch', 'lightning', 'timm', 'numpy', 'rich') if m in sys.modules]\n"
        "print(codes, heavy, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *_, codes, heavy = done.stdout.splitlines()
    assert codes == str(list(AT_ONCE.values()))
    assert heavy == "[]"
    assert len(done.stderr.splitlines()) == list(AT_ONCE.values()).count(2)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, text in cli.COMMANDS.items():
        assert any(line.split() == [name, *text.split()] for line in lines)


def test_no_words_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert capsys.readouterr().out.startswith("usage: scenewise COMMAND")


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scenewise", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"scenewise {__version__}\n"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_a_module(name: str) -> None:
    module = "fit" if name in ("validate", "test") else name
    assert find_spec(f"scenewise.apps.{module}") is not None
    assert find_spec(f"scenewise.apps.options.{module}") is not None


def test_an_unknown_command_names_a_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tets"]) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("scenewise: error: unknown command 'tets'; did you mean 'test'?")
    assert len(stderr.splitlines()) == 1


def test_a_command_gets_its_arguments(command, capsys: pytest.CaptureFixture[str]) -> None:
    command(lambda args: print("size", args.size))
    assert cli.main(["paint", "--size", "7"]) == 0
    assert cli.main(["paint"]) == 0
    assert capsys.readouterr().out == "size 7\nsize 3\n"


def test_the_help_of_a_command(command, capsys: pytest.CaptureFixture[str]) -> None:
    command(raising(AssertionError("not run")))
    assert cli.main(["paint", "--help"]) == 0
    assert "usage: scenewise paint" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--size", "big"],
            "--size is 'big' but must be a whole number; see scenewise paint --help",
        ),
        (
            ["--sise", "3"],
            "unknown option '--sise'; did you mean '--size'? See scenewise paint --help",
        ),
        (
            ["--siz", "3"],
            "unknown option '--siz'; did you mean '--size'? See scenewise paint --help",
        ),
        (["--xyz"], "unknown option '--xyz'; see scenewise paint --help"),
        (["7"], "too many arguments: 7; see scenewise paint --help"),
        (
            ["--colour", "gren"],
            "--colour is 'gren'; did you mean 'green'? Choose one of red, green; "
            "see scenewise paint --help",
        ),
    ],
)
def test_a_wrong_argument_is_one_sentence(
    words: list[str], message: str, command, capsys: pytest.CaptureFixture[str]
) -> None:
    command(raising(AssertionError("not run")))
    assert cli.main(["paint", *words]) == 2
    assert capsys.readouterr().err == f"scenewise: error: {message}\n"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("no file 'a';\ngive one"), 2, "error: no file 'a'; give one"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            ZeroDivisionError("by zero\nreally"),
            1,
            "error: unexpected ZeroDivisionError: by zero; run it again with --debug to see where",
        ),
        (SystemExit(7), 7, ""),
        (SystemExit(), 0, ""),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, message: str, command, capsys: pytest.CaptureFixture[str]
) -> None:
    command(raising(error))
    assert cli.main(["paint"]) == code
    assert capsys.readouterr().err == (f"scenewise: {message}\n" if message else "")


def test_the_exit_of_an_interrupted_training(command, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(args: argparse.Namespace) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)  # as Lightning does

    command(interrupted)
    assert cli.main(["paint"]) == 130
    assert capsys.readouterr().err == "scenewise: interrupted\n"


@pytest.mark.parametrize("words", [["--debug", "paint"], ["paint", "--debug"]])
def test_debug_shows_the_traceback(
    words: list[str], command, capsys: pytest.CaptureFixture[str]
) -> None:
    command(raising(UserError("no file 'a'; give one")))
    assert cli.main(words) == 2
    stderr = capsys.readouterr().err
    assert "Traceback" in stderr
    assert "in raising" not in stderr
    assert ", in run" in stderr
    assert stderr.endswith("scenewise: error: no file 'a'; give one\n")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes."),
    ],
)
def test_out_of_memory_says_what_to_change(
    error: Exception, command, capsys: pytest.CaptureFixture[str]
) -> None:
    command(raising(error))
    assert cli.main(["paint"]) == 2
    stderr = capsys.readouterr().err
    assert "out of memory" in stderr
    assert "--data.batch_size" in stderr


class Broken(Dataset[int]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise UserError("cannot read 'a.png'; replace it")


def test_the_error_of_a_worker_is_its_sentence_alone(
    command, capsys: pytest.CaptureFixture[str]
) -> None:
    command(lambda args: print(list(DataLoader(Broken(), num_workers=1))))
    assert cli.main(["paint"]) == 2
    assert capsys.readouterr().err == "scenewise: error: cannot read 'a.png'; replace it\n"
