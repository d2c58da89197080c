"""``scenewise fit``, ``validate`` and ``test``: LightningCLI with defaults taken from the data."""

import argparse
import os
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scenewise.errors import UserError

if TYPE_CHECKING:
    from scenewise.training.trainer import Stage

_EXAMPLES = {
    "fit": """\
examples:
  scenewise fit DIR
  scenewise fit DIR --model.network fcn --trainer.max_epochs 40
  scenewise fit DIR --data.format cityscapes
  scenewise fit DIR --start RUN_FOLDER --model.freeze backbone
  scenewise fit --config configs/danet_camvid.yaml --data.root DIR
  scenewise fit --config RUN_FOLDER/config.yaml --ckpt_path last
  torchrun --nproc-per-node 2 -m scenewise fit --data.format folder --data.root DIR \\
      --trainer.strategy fsdp2

The run folder, runs/NAME/version_N, gets config.yaml, config.json and model.safetensors (the best
model, for --model), metrics.json (the scores with fingerprints of model and data), confusion.csv
and .png, metrics.csv, TensorBoard logs, and checkpoints/{best,last}.ckpt.
An interrupted run is resumed in its folder, with the result of an uninterrupted run to the bit.
Several processes each hold all weights (ddp) or shard them (fsdp2; hsdp: within each machine).
""",
    "validate": """\
examples:
  scenewise validate DIR --model RUN_FOLDER
  scenewise validate --model RUN_FOLDER --data.format cityscapes --data.root DIR --protocol danet_ms
  scenewise validate --config RUN_FOLDER/config.yaml --ckpt_path RUN_FOLDER/checkpoints/best.ckpt
""",
    "test": """\
examples:
  scenewise test DIR --model RUN_FOLDER
  scenewise test --model RUN_FOLDER --data.format voc --data.root DIR --data.test_split val
  scenewise test --model RUN_FOLDER --data.format cityscapes --data.root DIR --protocol mmseg_whole
  scenewise test --config RUN_FOLDER/config.yaml --ckpt_path RUN_FOLDER/checkpoints/best.ckpt
""",
}


def run(command: "Stage", words: Sequence[str]) -> None:
    """Run ``fit``, ``validate`` or ``test`` with the arguments ``words``.

    Raises:
        UserError: an argument or a file is wrong.
    """
    if command == "fit" and not _hub_answers():
        os.environ["HF_HUB_OFFLINE"] = "1"  # else each file is requested again for a minute
    # Lightning calls functions that jsonargparse 5 removes.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    from scenewise.apps.fit.lightning_cli import SegmentationCLI
    from scenewise.training.trainer import quiet

    try:
        with quiet(command):
            SegmentationCLI.start(command, _expand_options(words), _EXAMPLES[command])
    except argparse.ArgumentError as error:
        raise UserError(f"{_one_sentence(str(error))}; see scenewise {command} --help") from error


def _expand_options(words: Sequence[str]) -> list[str]:
    """Expand the short options: a first DIR, ``--protocol``, ``--start``, ``--model`` without YAML.

    >>> _expand_options(["--model", "runs/danet/version_0", "--data.root", "street"])
    ['--model.weights', 'runs/danet/version_0', '--data.root', 'street']
    >>> _expand_options(["--model=danet.yaml"])
    ['--model=danet.yaml']
    >>> _expand_options(["street", "--protocol", "mmseg_ms"])
    ['--data.root', 'street', '--model.protocol', 'mmseg_ms']
    >>> _expand_options(["street", "--data.root=town"])
    Traceback (most recent call last):
    scenewise.errors.UserError: 'street' and --data.root both name the data; give one of them
    """
    expanded: list[str] = []
    if words and not words[0].startswith("-"):
        if any(word.partition("=")[0] == "--data.root" for word in words):
            raise UserError(f"'{words[0]}' and --data.root both name the data; give one of them")
        expanded, words = ["--data.root", words[0]], words[1:]
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        value = value if equals else next(iter(words[index + 1 :]), "")
        if name == "--model" and Path(value).suffix not in (".yaml", ".yml"):
            word = "--model.weights" + word.removeprefix("--model")
        if name in ("--protocol", "--start"):
            word = "--model." + word.removeprefix("--")
        expanded.append(word)
    return expanded


def _one_sentence(text: str) -> str:
    """The error of an argument in one sentence, from the several lines of jsonargparse.

    >>> _one_sentence('Parser key "model.lr": Expected a float. Got value: fast')
    "--model.lr is 'fast' but must be float"
    >>> _one_sentence("Subcommand 'fit' does not accept option 'modle'")
    "Subcommand 'fit' does not accept option 'modle'"
    """
    flat = " ".join(text.split()).rstrip(".")
    key = re.match(r'Parser key "([^"]+)": .*?(?:Subtypes: \[|Expected an? )(.*)', flat)
    value = re.search(r"(?:Given|Got) value: (.*)", flat)
    if not key or not value:
        return flat
    types = re.split(r"\] Errors:|\. Got value:", key[2])[0]
    types = re.sub(r"<class '(\w+)'>", r"\1", types).replace("typing.", "")
    types = types.replace(", NoneType", " or null")
    return f"--{key[1]} is '{value[1]}' but must be {types}"


def _hub_answers(timeout: float = 3.0) -> bool:
    """Whether the hub that serves ImageNet weights can be reached; one short request."""
    if os.environ.get("HF_HUB_OFFLINE"):
        return True  # the user has decided
    url = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
