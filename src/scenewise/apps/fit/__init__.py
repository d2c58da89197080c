"""``scenewise fit``, ``validate`` and ``test``: LightningCLI with defaults taken from the data."""

import argparse
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scenewise.apps.fit.messages import one_sentence
from scenewise.apps.options.fit import EXAMPLES, check_words, short_help
from scenewise.errors import UserError

if TYPE_CHECKING:
    from scenewise.training.trainer import Stage


def run(command: "Stage", words: Sequence[str]) -> None:
    """Run ``fit``, ``validate`` or ``test`` with the arguments ``words``.

    Raises:
        UserError: an argument or a file is wrong.
    """
    words = _expand_options(words)
    if {"-h", "--help"} & set(words):
        print(short_help(command), end="")
        return
    check_words(command, words)  # before PyTorch is loaded
    # Lightning calls functions that jsonargparse 5 removes.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    from scenewise.apps.fit.lightning_cli import SegmentationCLI
    from scenewise.training.trainer import quiet

    words = ["--help" if word == "--help-all" else word for word in words]
    try:
        with quiet(command):
            SegmentationCLI.start(command, words, EXAMPLES[command])
    except argparse.ArgumentError as error:
        text = one_sentence(str(error), command)
        joined = f"{text}{' See' if text.endswith('?') else '; see'} scenewise {command} --help"
        raise UserError(joined) from error


def _expand_options(words: Sequence[str]) -> list[str]:
    """Expand the short options: a first DIR, ``--protocol`` and others, ``--model`` without YAML.

    Blocks of a repeated ``--without`` become one list; ``--choose_thresholds`` needs no value.

    >>> _expand_options(["--model", "runs/danet/version_0", "--data.root", "street"])
    ['--model.weights', 'runs/danet/version_0', '--data.root', 'street']
    >>> _expand_options(["--model=danet.yaml"])
    ['--model=danet.yaml']
    >>> _expand_options(["street", "--protocol", "mmseg_ms"])
    ['--data.root', 'street', '--model.protocol', 'mmseg_ms']
    >>> _expand_options(["--without", "a", "--quality", "best", "--without=b"])
    ['--model.quality', 'best', '--without=["a", "b"]']
    >>> _expand_options(["street", "--choose-thresholds", "--choose_thresholds=false"])
    ['--data.root', 'street', '--choose_thresholds=true', '--choose_thresholds=false']
    >>> _expand_options(["street", "--unlabelled=more"])
    ['--data.root', 'street', '--data.unlabelled=more']
    >>> _expand_options(["street", "--data.root=town"])
    Traceback (most recent call last):
    scenewise.errors.UserError: 'street' and --data.root both name the data; give one of them
    """
    expanded: list[str] = []
    if words and not words[0].startswith("-"):
        if any(word.partition("=")[0] == "--data.root" for word in words):
            raise UserError(f"'{words[0]}' and --data.root both name the data; give one of them")
        expanded, words = ["--data.root", words[0]], words[1:]
    words, blocks = _blocks(words)
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        value = value if equals else next(iter(words[index + 1 :]), "")
        if name == "--model" and Path(value).suffix not in (".yaml", ".yml"):
            word = "--model.weights" + word.removeprefix("--model")
        if name in ("--protocol", "--quality", "--start"):
            word = "--model." + word.removeprefix("--")
        if name in ("--choose_thresholds", "--choose-thresholds"):
            given = f"={value}" if equals else "" if value in ("true", "false") else "=true"
            word = f"--choose_thresholds{given}"
        if name == "--unlabelled":
            word = "--data." + word.removeprefix("--")
        expanded.append(word)
    return expanded + _logger_folder(words) + blocks


def _blocks(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words without ``--without BLOCK``, and one option with all the blocks, if any."""
    rest, blocks = [], []
    iterator = iter(words)
    for word in iterator:
        name, equals, value = word.partition("=")
        if name != "--without":
            rest.append(word)
            continue
        value = value if equals else next(iterator, "")
        if not value or value.startswith("-"):
            raise UserError("--without needs the name of a block; give one, or all")
        blocks.append(value)
    return rest, [f"--without={json.dumps(blocks)}"] if blocks else []


def _logger_folder(words: Sequence[str]) -> list[str]:
    """The option that Lightning's two loggers of files require; empty for the run folder.

    >>> _logger_folder(["--trainer.logger", "TensorBoardLogger"])
    ['--trainer.logger.save_dir', '']
    >>> _logger_folder(["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs"])
    []
    """
    pairs = " ".join(words).replace("=", " ")
    files = re.search(r"--trainer\.logger\s+\S*(TensorBoardLogger|CSVLogger)(\s|$)", pairs)
    given = re.search(r"--trainer\.logger(\.init_args)?\.save_dir\s", pairs)
    return ["--trainer.logger.save_dir", ""] if files and not given else []
