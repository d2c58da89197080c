"""``SegmentationCLI``: LightningCLI whose Trainer comes from ``training.trainer.build_trainer``."""

import argparse
import inspect
import operator
import re
from collections.abc import Callable, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import Any, cast, get_args

from jsonargparse import DefaultHelpFormatter, Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from rich.console import Console

from scenewise.data.module import SegmentationData
from scenewise.data.value_range import ImageFormat
from scenewise.errors import UserError
from scenewise.training.ablation import BlockComparison
from scenewise.training.callbacks.choose_thresholds import ChooseThresholds
from scenewise.training.callbacks.run_folder import SPLITS, scored_with
from scenewise.training.callbacks.signals import ObeySignals
from scenewise.training.callbacks.without_blocks import WithoutBlocks
from scenewise.training.checkpoint import ResumePoint, resume_point
from scenewise.training.defaults import default_backbone, network_name
from scenewise.training.loggers import run_path
from scenewise.training.metrics.confusion import table
from scenewise.training.preflight import describe_run, prepare
from scenewise.training.resume import adopt_recipe
from scenewise.training.task import SegmentationTask
from scenewise.training.trainer import (
    BEST_CHECKPOINT,
    Stage,
    build_trainer,
    run_folder,
)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Options as jsonargparse shows them, examples as they are written."""


def _int_before_float(function: Callable[..., Any]) -> None:
    """Reorder annotations so that the parser tries ``int`` first: ``1`` is one batch, ``1.0`` all.

    Trainer declares ``Union[int, float]``, but ``typing`` returns a cached ``Union[float, int]``
    instead if another module has asked for that shortly before.
    """
    annotations = inspect.unwrap(function).__annotations__
    for name, annotation in annotations.items():
        alternatives = get_args(annotation)
        if {int, float} <= set(alternatives):
            others = [t for t in alternatives if t not in (int, float)]
            annotations[name] = reduce(operator.or_, others, int | float)  # "|" is not cached


_PATHS = (
    "data.root",
    "data.unlabelled",
    "model.start",
    "model.weights",
    "model.backbone_weights",
    "trainer.default_root_dir",
    "checkpoint.dirpath",
    "ckpt_path",
)


def _first_cause(error: BaseException) -> UserError:
    """Why a class could not be made, from the chain of jsonargparse's errors."""
    named = re.search(r"class_path[ =]'([\w.]+)'", str(error))
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, UserError):
        return error
    text = " ".join(str(error).split())
    package = re.search(r"pip install (?:-U )?['\"]?([\w-]+)", text)
    if isinstance(error, ImportError) and package is not None:
        text = f"a package is missing; pip install {package[1]}"
    name = named[1].rpartition(".")[2] if named else type(error).__name__
    return UserError(f"{name} cannot be used: {text}")


def _score_as_before(model: Namespace) -> list[str]:
    """Score a run in the windows or by the protocol of its own scores, unless one is given.

    Returns:
        What to print where that is not whole images.
    """
    if any(model[name] is not None for name in ("eval_window", "protocol", "quality")):
        return []
    before = scored_with(Path(model.weights))
    for name, value in before.items():
        model[name] = value
    texts = {"eval_window": "windows of {} pixels", "quality": "--quality {}", "protocol": "{}"}
    used = [texts[name].format(value) for name, value in before.items() if value]
    hint = "; --model.eval_window 0 scores whole images"
    return [f"scored as in the training: {', '.join(used)}{hint}"] if used else []


def _network_name(model: Namespace) -> str:
    """The name of the network that these options train."""
    return network_name(model.network, model.start, model.backbone)


def _drop_nulls(config: Namespace, defaults: Namespace) -> None:
    """Leave out options without a value, unless their default is one: ``config.yaml`` is short.

    >>> config = Namespace(model=Namespace(lr=0.1, head=None), every=None)
    >>> _drop_nulls(config, Namespace(every=1))
    >>> config
    Namespace(model=Namespace(lr=0.1), every=None)
    """
    for name in [name for name, value in config.items() if value is None]:
        if defaults.get(name) is None:
            del config[name]


class SegmentationCLI(LightningCLI):
    """``fit``, ``validate`` and ``test`` of a :class:`SegmentationTask` on a dataset."""

    datamodule: SegmentationData
    model: SegmentationTask
    trainer: Trainer
    choice: ChooseThresholds | None = None

    @classmethod
    def start(cls, command: str, words: Sequence[str], examples: str) -> "SegmentationCLI":
        """Parse ``words`` and run ``command``; the parsers of the others are not built."""
        _int_before_float(Trainer.__init__)
        alone = {command: LightningCLI.subcommands()[command]}
        only = {"subcommands": staticmethod(lambda: alone)}
        cli: type[SegmentationCLI] = type(cls.__name__, (cls,), only)
        return cli(
            SegmentationTask,
            SegmentationData,
            save_config_callback=None,  # the run folder's callback writes it
            trainer_defaults={"default_root_dir": "runs", "enable_model_summary": False},
            seed_everything_default=0,
            parser_kwargs={
                "prog": "scenewise",
                "exit_on_error": False,
                "formatter_class": _HelpFormatter,
                command: {"epilog": examples, "exit_on_error": False},
            },
            args=[command, *words],
            auto_configure_optimizers=False,  # the task does
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the name of the run, EMA, and the checkpoints' options; link the classes."""
        parser.add_argument(
            "--name", type=str | None, help="Folder of the run in trainer.default_root_dir."
        )
        parser.add_argument(
            "--ema",
            type=float | None,
            help="Also keep an exponential moving average of the weights, whose decay rises "
            "to this, for example 0.999; the average is validated and saved. Default: "
            "none; 0.99 with --unlabelled, whose teacher it is.",
        )
        parser.add_argument(
            "--save_every",
            type=int | None,
            help="Write checkpoints/last.ckpt every so many steps too, not only when validating.",
        )
        parser.add_argument(
            "--budget",
            type=str | None,
            help="Time for the training, for example 30m or 2h: as many steps as fit, measured "
            "before the first and kept in config.yaml. Default: 1h without a GPU, unless "
            "max_epochs, max_steps or max_time is given.",
        )
        parser.add_argument(
            "--without",
            type=list[str] | None,
            help="Score again without this attention block, and write without.json and .png; "
            "repeatable; all is each block in turn.",
        )
        parser.add_argument(
            "--choose_thresholds",
            type=bool | None,
            help="Choose a threshold for each class on the validation images, by F1, and store "
            "them in the model for predict --threshold chosen; writes thresholds.json.",
        )
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({f"checkpoint.{name}": v for name, v in BEST_CHECKPOINT.items()})
        for known_to_data in ("classes", "images"):
            source, target = f"data.{known_to_data}", f"model.{known_to_data}"
            parser.link_arguments(source, target, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and check the checkpoint before anything else reads it."""
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        for name in _PATHS:  # the shell expands ~ neither in YAML nor after =
            if str(config.get(name) or "").startswith("~"):
                config[name] = str(Path(config[name]).expanduser())
        self.resume: ResumePoint | None = None
        if config.ckpt_path is not None:
            if self.config.subcommand != "fit" and Path(config.ckpt_path).is_dir():
                raise UserError(
                    f"--ckpt_path '{config.ckpt_path}' is a folder; score its best model with "
                    f"--model {config.ckpt_path}, or give a checkpoint"
                )
            runs = Path(config.trainer.default_root_dir or "runs")
            network = _network_name(config.model)
            self.resume = resume_point(config.ckpt_path, runs / (config.name or network))
            config.ckpt_path = None if self.resume is None else str(self.resume.path)

    def before_instantiate_classes(self) -> None:
        """Check what is loaded, and choose what depends on the machine."""
        config = self.config[self.subcommand]
        if config.without and self.subcommand != "test":
            raise UserError(
                f"--without is an option of test, not of {self.subcommand}; scenewise test "
                "--data.test_split val scores the validation images"
            )
        if config.choose_thresholds:
            self._check_choice(config)
        self.transferred = config.model.start
        if self.subcommand != "fit":
            config.model.start = config.model.freeze = None
        if config.ckpt_path is not None:
            config.model.pretrained = False
            config.model.start = self.transferred and config.ckpt_path  # has its network too
            if self.resume is not None:
                adopt_recipe(self.resume, config.model)
        elif self.subcommand != "fit" and config.model.weights is None:
            raise UserError(
                f"nothing to {self.subcommand}; give --model RUN_FOLDER, or --config and "
                "--ckpt_path"
            )
        scored = self.subcommand != "fit" and config.model.weights is not None
        self.scored_as = _score_as_before(config.model) if scored else []
        if config.model.backbone is None and config.model.start is None:
            config.model.backbone = default_backbone()

    def _check_choice(self, config: Namespace) -> None:
        """Raise a UserError where thresholds cannot be chosen."""
        if self.subcommand != "test":
            raise UserError(
                f"--choose_thresholds is an option of test, not of {self.subcommand}; scenewise "
                "test chooses them on the validation images"
            )
        if config.model.weights is None:
            raise UserError("--choose_thresholds stores them in a model; give --model RUN_FOLDER")
        self.choice = ChooseThresholds(Path(config.model.weights))

    def instantiate_classes(self) -> None:
        """Make data, model and Trainer; a class of the user's that cannot be made is named.

        Raises:
            UserError: a missing package, a wrong argument of a logger or callback.
        """
        config = self.config[self.subcommand]
        logger = config.trainer.logger
        if isinstance(logger, Namespace) and logger.init_args.get("save_dir") == "":
            network = _network_name(config.model)
            root = Path(config.trainer.default_root_dir or "runs").absolute()
            folder = run_path(root, config.name or network, self.resume)
            place = {"save_dir": str(folder.parents[1]), "name": folder.parent.name}
            for name, value in (place | {"version": folder.name}).items():
                logger.init_args[name] = value
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise _first_cause(error) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer of :func:`build_trainer`, whose choices go into ``config.yaml``."""
        config = self.config[self.subcommand]
        if self.subcommand != "fit" and config.model.weights is not None:
            self.datamodule.use_division(Path(config.model.weights) / SPLITS, same=False)
        self.trainer_class = partial(
            build_trainer,
            self.model,
            self.datamodule,
            stage=cast(Stage, self.subcommand),
            name=config.name,
            resume=self.resume,
            ema=config.ema,
            save_every=config.save_every,
            budget=config.budget,
            config=config,
        )
        return super().instantiate_trainer(**kwargs)

    def after_instantiate_classes(self) -> None:
        """Choose what is open, and print what is going to run."""
        config, task = self.config[self.subcommand], self.model
        config.ckpt_path = None  # config.yaml repeats the run from its start
        config.budget = None  # and has its length in steps
        config.model.start = self.transferred
        resumed = self.resume is not None
        if self.subcommand == "fit":
            lines = prepare(self.trainer, task, self.datamodule, config, resumed=resumed)
        else:
            lines = [*self.scored_as, *describe_run(task, self.datamodule)]
            if self.datamodule.images != ImageFormat():
                lines.append(str(self.datamodule.images))
        self.without = BlockComparison(task.model, config.without) if config.without else None
        if self.without is not None:
            self.trainer.callbacks.append(WithoutBlocks(self.without))  # type: ignore[attr-defined]
        if self.choice is not None:
            self.trainer.callbacks.append(self.choice)  # type: ignore[attr-defined]
        self._complete_trainer()
        if self.trainer.is_global_zero:
            print("\n".join(lines))

    def _complete_trainer(self) -> None:
        """Give the run folder its configuration, and let Ctrl-C end the process."""
        command = str(self.subcommand)
        parser, config = self._parser(command), self.config[command].clone()
        _drop_nulls(config, parser.get_defaults())
        text = parser.dump(config, skip_none=False)
        run_folder(self.trainer).config = text
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ObeySignals):
                callback.signals.exits = True

    def before_validate(self) -> None:
        """Print no scores here: the table at the end has them."""
        self.config_init[self.subcommand].verbose = False

    before_test = before_validate

    def after_fit(self) -> None:
        """Print the scores of the best or tested model, and the run folder."""
        if not self.trainer.is_global_zero:
            return
        run = run_folder(self.trainer)
        if run.matrix is not None:
            Console().print(table(run.matrix, self.model.classes))
            means = {name: value for name, value in run.scores.items() if "/" not in name}
            texts = [f"{name.replace('_', ' ')} {100 * mean:.1f} %" for name, mean in means.items()]
            print(", ".join(texts).replace("iou", "IoU"))
        if self.without is not None:
            Console().print(self.without.table())
            print("\n".join(self.without.sentences()))
        if self.choice is not None and self.choice.scores is not None:
            Console().print(self.choice.scores.table())
            print("\n".join(self.choice.sentences(self.datamodule)))
        if not getattr(self.trainer, "fast_dev_run", False):
            print(f"written to {run.folder}")

    after_validate = after_fit
    after_test = after_fit
