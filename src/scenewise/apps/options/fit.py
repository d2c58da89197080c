"""The options of ``scenewise fit``, ``validate`` and ``test``: short help, and what is refused.

LightningCLI needs seconds to build its parser. The names and simple types of its options are read
from the source instead, so that the help and a wrong option are answered at once.
"""

import difflib
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from scenewise.apps.options.source import Parameter, added_options, names, parameters
from scenewise.errors import UserError, choose

_OWN = {
    "data": ("scenewise.data.module", "SegmentationData"),
    "model": ("scenewise.training.task", "SegmentationTask"),
}
_LIGHTNING = {
    "trainer": ("lightning.pytorch.trainer.trainer", "Trainer"),
    "checkpoint": ("lightning.pytorch.callbacks.model_checkpoint", "ModelCheckpoint"),
}
_GIVEN = {"model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule", "classes"}
_GENERAL = {
    "config": "a YAML file of options; repeatable, and the words after it take precedence",
    "print_config": "print all options as YAML, and stop",
    "ckpt_path": "a checkpoint to resume or to score: a file, or 'last' or 'best', of the newest "
    "run of the same name; fit takes a run folder too, and resumes its newest",
    "seed_everything": "of the initial weights and everything random; default 0",
    "help": "",
    "help-all": "",
}
_SHORT = {
    "model": "model.weights",
    "protocol": "model.protocol",
    "quality": "model.quality",
    "start": "model.start",
    "unlabelled": "data.unlabelled",
}
_COMMAND = {"without": "test", "choose_thresholds": "test"}  # of options that are not fit's
_TABLES = {  # options that take a name of a table
    "model.network": ("scenewise.models.zoo", "NETWORKS"),
    "model.protocol": ("scenewise.inference.protocols", "PROTOCOLS"),
    "model.quality": ("scenewise.inference.quality", "Quality"),
    "model.optimizer": ("scenewise.training.optim", "OptimizerName"),
    "model.loss": ("scenewise.training.losses", "LossName"),
    "data.format": ("scenewise.data.module", "Format"),
    "data.test_split": ("scenewise.data.module", "_SPLITS"),
}
_TRAINER = {
    "max_epochs": "default 240 on a GPU, but at most 40,000 steps; without one see --budget",
    "max_steps": "length in optimiser steps instead of epochs",
    "max_time": "stop after DD:HH:MM:SS",
    "accelerator": "cpu, gpu, mps, ...; default an accelerator if available",
    "devices": "number of GPUs or processes; default all GPUs",
    "precision": "bf16-mixed or 16-mixed takes about half the memory; default bf16-mixed on a CPU "
    "with AMX, else 32-true",
    "accumulate_grad_batches": "batches in one optimiser step; default 1",
    "check_val_every_n_epoch": "epochs between validations",
    "default_root_dir": "folder of all runs; default runs",
}
EXAMPLES = {
    "fit": """\
examples:
  scenewise fit DIR
  scenewise fit DIR --budget 30m
  scenewise fit DIR --model.network fcn --trainer.max_epochs 40
  scenewise fit DIR --data.rare_windows 0.5
  scenewise fit DIR --unlabelled DIR2
  scenewise fit DIR --data.labels 0=background,255=disc
  scenewise fit DIR --data.format cityscapes
  scenewise fit DIR --start RUN_FOLDER --model.freeze backbone
  scenewise fit DIR --model.freeze backbone --data.cache_features 4
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
  scenewise test DIR --model RUN_FOLDER --without all
  scenewise test DIR --model RUN_FOLDER --quality best
  scenewise test DIR --model RUN_FOLDER --choose_thresholds
  scenewise test --model RUN_FOLDER --data.format voc --data.root DIR --data.test_split val
  scenewise test --model RUN_FOLDER --data.format cityscapes --data.root DIR --protocol mmseg_whole
  scenewise test --config RUN_FOLDER/config.yaml --ckpt_path RUN_FOLDER/checkpoints/best.ckpt
""",
}
_ABOUT = {
    "fit": "Train a network on the data in DIR, whose layout is recognised.",
    "validate": "Score a trained network on the validation images.",
    "test": "Score a trained network on the test images.",
}
_EVALUATING = ("accelerator", "devices", "precision", "default_root_dir")
_SHOWN = {
    "fit": {
        "data": "format root labels without_mask val_share unlabelled crop_size batch_size "
        "num_workers scale photometric rare_windows cache_features",
        "model": "network backbone pretrained start freeze output_stride optimizer lr warmup "
        "loss class_weights ohem checkpoint_activations",
        "trainer": " ".join(_TRAINER),
    },
    "validate": {
        "data": "format root labels without_mask val_share eval_batch_size num_workers",
        "model": "model protocol quality",
        "trainer": " ".join(_EVALUATING),
    },
    "test": {
        "data": "format root labels without_mask val_share eval_batch_size num_workers test_split",
        "model": "model protocol quality",
        "trainer": " ".join(_EVALUATING),
    },
}


@cache
def known_options(command: str) -> dict[str, Parameter]:
    """Every option of the command by its name, without dashes."""
    method = parameters(*_LIGHTNING["trainer"], command)
    own = added_options("scenewise.apps.fit.lightning_cli") | _GENERAL
    known = {name: Parameter("", "", text) for name, text in own.items()}
    known |= {name: Parameter("", "", "") for name in method if name not in known}
    for group, (module, owner) in (_OWN | _LIGHTNING).items():
        options = parameters(module, owner)
        known |= {f"{group}.{name}": option for name, option in options.items()}
    return {name: option for name, option in known.items() if name.split(".")[-1] not in _GIVEN}


def short_help(command: str) -> str:
    """The options that most people need, and examples."""
    known, own = known_options(command), added_options("scenewise.apps.fit.lightning_cli")
    lines = [f"usage: scenewise {command} [DIR] [options]", "", _ABOUT[command], ""]
    for group, chosen in _SHOWN[command].items():
        lines.append(f"{group}:")
        for word in chosen.split():
            name = _SHORT.get(word, f"{group}.{word}")
            text = _TRAINER[word] if group == "trainer" else known[name].help
            lines += _entry(word if word in _SHORT else name, text)
    lines.append("run:")
    shown = {name: text for name, text in own.items() if command == _COMMAND.get(name, "fit")}
    for name, text in (shown | _GENERAL).items():
        if text:
            lines += _entry(name, text)
    lines += _entry("help-all", "every option, those of Lightning included")
    return "\n".join([*lines, "", EXAMPLES[command]])


def check_words(command: str, words: Sequence[str]) -> None:
    """Refuse an unknown option, and a value that a simple type or a table excludes.

    Raises:
        UserError: naming the option, and the nearest known one.

    >>> check_words("fit", ["street", "--lr", "0.1"])
    Traceback (most recent call last):
    scenewise.errors.UserError: unknown option '--lr'; did you mean '--model.lr'? See scenewise ...
    >>> check_words("fit", ["street", "--model.lr", "fast"])
    Traceback (most recent call last):
    scenewise.errors.UserError: --model.lr is 'fast' but must be a number or null; see ...
    """
    known = known_options(command)
    for name, value in _options(words):
        if name in known:
            if value is not None:
                _check_value(command, name, value, known[name].annotation)
        elif name not in (*_OWN, *_LIGHTNING) and not _inside(name, known):
            hint = nearest_option(name, known)
            see = f"{'See' if hint else 'see'} scenewise {command} --help, or --help-all"
            raise UserError(f"unknown option '--{name}'; {hint}{see}")


def _options(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Names of options and their values; None where the value is the next option, or a list.

    >>> list(_options(["dir", "--model.lr=1", "--flip", "--data.root", "x", "--a.b+", "3"]))
    [('model.lr', '1'), ('flip', None), ('data.root', 'x'), ('a.b', None)]
    """
    for index, word in enumerate(words):
        if not word.startswith("--"):
            continue
        name, equals, value = word[2:].partition("=")
        following = words[index + 1] if index + 1 < len(words) else "--"
        given = value if equals else None if following.startswith("--") else following
        yield name.removesuffix("+"), None if name.endswith("+") else given


def _inside(name: str, known: dict[str, Parameter]) -> bool:
    """Whether ``name`` is a part of an option that holds a dict or an object.

    >>> options = {"model.head": Parameter("dict", "", ""), "model.lr": Parameter("float", "", "")}
    >>> _inside("model.head.recurrence", options), _inside("model.lr.x", options)
    (True, False)
    """
    parts = name.split(".")
    prefixes = [".".join(parts[:count]) for count in range(1, len(parts))]
    groups = [*_OWN, *_LIGHTNING]
    if parts[-1] == "help" and prefixes and prefixes[-1] in groups:
        return True
    return any(p in known and _alternatives(known[p].annotation) is None for p in prefixes)


def nearest_option(name: str, known: Iterable[str]) -> str:
    """The hint for an unknown option: ``--lr`` is ``--model.lr``, ``--epochs`` has ``max_epochs``.

    >>> options = ["model.lr", "trainer.max_epochs", "trainer.min_epochs", "data.crop_size"]
    >>> [nearest_option(name, options)[14:-2] for name in ("lr", "epochs", "model.lrr", "crop-siz")]
    ["--model.lr'", "--trainer.max_epochs'", "--model.lr'", "--data.crop_size'"]
    """
    name = name.replace("-", "_")
    by_last = {option.split(".")[-1]: option for option in reversed(list(known))}
    last = name.split(".")[-1]
    ending = [option for option in known if option.endswith(f"_{last}")]
    near = [by_last[word] for word in difflib.get_close_matches(last, by_last, n=1)]
    exact = [by_last[last]] if last in by_last else []
    for option in (*exact, *ending, *near):
        return f"did you mean '--{option}'? "
    return ""


def _check_value(command: str, name: str, value: str, annotation: str) -> None:
    if name in _TABLES:
        allowed = names(*_TABLES[name])
        if value not in (*allowed, "null"):
            raise UserError(f"--{name} is '{value}'; {choose(value, allowed)}")
        return
    kinds = _alternatives(annotation)
    if kinds is None or any(_is(value, kind) for kind in kinds):
        return
    expected = " or ".join(dict.fromkeys(_KINDS[kind] for kind in kinds))
    raise UserError(f"--{name} is '{value}' but must be {expected}; see scenewise {command} --help")


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "None": "null",
}


def _alternatives(annotation: str) -> list[str] | None:
    """The simple types that an annotation allows; None where it allows others, or is missing.

    >>> _alternatives("float | None"), _alternatives("Optional[int]"), _alternatives("list[int]")
    (['float', 'None'], ['int', 'None'], None)
    """
    text = annotation
    if text.startswith("Optional[") and text.endswith("]"):
        text = text[len("Optional[") : -1] + " | None"
    if text.startswith("Union["):
        text = text.removeprefix("Union[").replace("]", "").replace(", ", " | ")
    kinds = text.split(" | ")
    return kinds if all(kind in _KINDS for kind in kinds) else None


def _is(value: str, kind: str) -> bool:
    """Whether YAML reads ``value`` as that type."""
    if kind == "None":
        return value.lower() in ("null", "none", "~", "")
    if kind == "bool":
        return value.lower() in ("true", "false", "yes", "no", "on", "off")
    try:
        float(value) if kind == "float" else int(value, 10 if value.isdecimal() else 0)
    except ValueError:
        return False
    return True


def _entry(name: str, text: str) -> list[str]:
    """An option and its help, wrapped."""
    wrapped = textwrap.wrap(text.strip().rstrip("."), 70)
    head = f"  --{name}"
    if not wrapped:
        return [head]
    if len(head) < 28:
        return [f"{head:29}{wrapped[0]}", *(f"{'':29}{line}" for line in wrapped[1:])]
    return [head, *(f"{'':29}{line}" for line in wrapped)]
