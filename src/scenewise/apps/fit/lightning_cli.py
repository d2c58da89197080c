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

from scenewise.apps.fit.forecast import Forecaster, plan_of
from scenewise.apps.fit.preflight import check_labels, choices, memory_warning
from scenewise.data.module import SegmentationData
from scenewise.data.value_range import ImageFormat
from scenewise.errors import UserError
from scenewise.memory import free_bytes
from scenewise.models.freeze import frozen_parameters
from scenewise.models.segmenter import Segmenter
from scenewise.training.callbacks.run_folder import SPLITS
from scenewise.training.callbacks.signals import ObeySignals
from scenewise.training.checkpoint import ResumePoint, describe, resume_point
from scenewise.training.defaults import default_backbone, network_name
from scenewise.training.loggers import run_path
from scenewise.training.metrics.confusion import table
from scenewise.training.task import SegmentationTask
from scenewise.training.trainer import (
    BEST_CHECKPOINT,
    Stage,
    batches_per_epoch,
    build_trainer,
    run_folder,
)


def _count_parameters(model: Segmenter) -> str:
    """The number of parameters in words, and how many of them are frozen.

    >>> from scenewise.models import create_model
    >>> _count_parameters(create_model("fcn", num_classes=2, backbone="tiny"))
    '0.1 million parameters'
    """
    total, frozen = sum(p.numel() for p in model.parameters()), frozen_parameters(model)
    text = f"{total / 1e6:.1f} million parameters"
    return f"{text}, {frozen / 1e6:.1f} million of them frozen" if frozen else text


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

    @classmethod
    def start(cls, command: str, words: Sequence[str], examples: str) -> "SegmentationCLI":
        """Parse ``words`` and run ``command``."""
        _int_before_float(Trainer.__init__)
        return cls(
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

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The commands, and those of their arguments that are not options."""
        stock = LightningCLI.subcommands()
        return {command: stock[command] for command in ("fit", "validate", "test")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the name of the run, EMA, and the checkpoints' options; link the classes."""
        parser.add_argument(
            "--name", type=str | None, help="Folder of the run in trainer.default_root_dir."
        )
        parser.add_argument(
            "--ema",
            type=float | None,
            help="Also keep an exponential moving average of the weights with this decay, for "
            "example 0.999; the average is validated and saved.",
        )
        parser.add_argument(
            "--save_every",
            type=int | None,
            help="Write checkpoints/last.ckpt every so many steps too, not only when validating.",
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
            runs = Path(config.trainer.default_root_dir or "runs")
            network = network_name(config.model.network, config.model.start)
            self.resume = resume_point(config.ckpt_path, runs / (config.name or network))
            config.ckpt_path = None if self.resume is None else str(self.resume.path)

    def before_instantiate_classes(self) -> None:
        """Check what is loaded, and choose what depends on the machine."""
        config = self.config[self.subcommand]
        self.transferred = config.model.start
        if self.subcommand != "fit":
            config.model.start = config.model.freeze = None
        if config.ckpt_path is not None:
            config.model.pretrained = False
            config.model.start = self.transferred and config.ckpt_path  # has its network too
        elif self.subcommand != "fit" and config.model.weights is None:
            raise UserError(
                f"nothing to {self.subcommand}; give --model RUN_FOLDER, or --config and "
                "--ckpt_path"
            )
        if config.model.backbone is None and config.model.start is None:
            config.model.backbone = default_backbone()

    def instantiate_classes(self) -> None:
        """Make data, model and Trainer; a class of the user's that cannot be made is named.

        Raises:
            UserError: a missing package, a wrong argument of a logger or callback.
        """
        config = self.config[self.subcommand]
        logger = config.trainer.logger
        if isinstance(logger, Namespace) and logger.init_args.get("save_dir") == "":
            network = network_name(config.model.network, config.model.start)
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
            config=config,
        )
        return super().instantiate_trainer(**kwargs)

    def after_instantiate_classes(self) -> None:
        """Print what is going to run."""
        config, model = self.config[self.subcommand], self.model.model
        config.ckpt_path = None  # config.yaml repeats the run from its start
        config.model.start = self.transferred
        if model.recipe is not None:
            config.model.network = model.recipe["name"]
            config.model.backbone = model.recipe["backbone"]
        if self.subcommand == "fit":
            self._record_choices(config)
        forecaster = None
        if self.subcommand == "fit" and not getattr(self.trainer, "fast_dev_run", False):
            forecaster = self._forecaster()  # in every process, as it may choose windows
        self._complete_trainer()
        if not self.trainer.is_global_zero:
            return
        if self.datamodule.source is not None:
            print(self.datamodule.describe())
        if self.model.start_report and self.resume is None:
            print(self.model.start_report)
        print(f"{describe(model.config())}, {_count_parameters(model)}")
        if self.datamodule.images != ImageFormat() or self.subcommand == "fit":
            print(self.datamodule.images)
        if forecaster is not None:
            self._print_forecast(forecaster)

    def _record_choices(self, config: Namespace) -> None:
        """The values that the task and the data have chosen, for ``config.yaml``."""
        task, data = self.model, self.datamodule
        config.model.optimizer, config.model.lr = task.optimizer_name, float(task.lr)
        config.model.weight_decay = task.weight_decay
        given = (config.model.start, config.model.weights, config.model.backbone_weights)
        if self.resume is None and given == (None, None, None):
            config.model.pretrained = task.trained == "backbone"
            config.model.output_stride = (task.model.recipe or {}).get("output_stride")
        config.data.scale, config.data.num_workers = data.scale, data.train_workers()

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

    def _forecaster(self) -> Forecaster:
        """The forecaster of this training; windows for the validation where they are needed."""
        mixed = str(self.trainer.precision).startswith(("16", "bf16"))
        batches = batches_per_epoch(self.datamodule, self.trainer.world_size)
        plan = plan_of(self.trainer, self.datamodule, batches, mixed)
        device = self.trainer.strategy.root_device
        forecaster = Forecaster(self.model.model, self.datamodule, device, plan)
        if self.model.protocol is None and self.model.eval_window is None:
            free = free_bytes(device) if self.trainer.world_size == 1 else None
            self.model.eval_window = forecaster.choose_window(free)
            self.config[self.subcommand].model.eval_window = self.model.eval_window
            if self.model.eval_window is not None and self.trainer.is_global_zero:
                height, width = forecaster.largest
                print(
                    f"validation in windows of {self.model.eval_window} pixels: whole images of "
                    f"{height} x {width} would take more arithmetic than the training, or more "
                    "memory than is free; --model.eval_window sets another side"
                )
        return forecaster

    def _print_forecast(self, forecaster: Forecaster) -> None:
        config = self.config[self.subcommand]
        lines = check_labels(self.datamodule)
        lines += choices(self.model, self.datamodule, forecaster.plan, config)
        print("\n".join(lines))
        forecast = forecaster.forecast(self.model.eval_window)
        print(forecast.sentence())
        warning = memory_warning(forecast, free_bytes(forecaster.device))
        if warning is not None:
            print(warning)

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
        if not getattr(self.trainer, "fast_dev_run", False):
            print(f"written to {run.folder}")

    after_validate = after_fit
    after_test = after_fit
