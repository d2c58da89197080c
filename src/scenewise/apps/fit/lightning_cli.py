"""LightningCLI for segmentation: what it takes from the data, and what it tells at the end."""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jsonargparse import DefaultHelpFormatter
from lightning.pytorch import Callback, Trainer, callbacks
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.plugins.io import CheckpointIO
from rich.console import Console

from scenewise.apps.declared import check_declared
from scenewise.apps.fit.preflight import check_labels, forecast
from scenewise.data.module import SegmentationData
from scenewise.errors import UserError
from scenewise.models.segmenter import Segmenter
from scenewise.training.callbacks.last_checkpoint import LastCheckpoint
from scenewise.training.callbacks.memory_advice import MemoryAdvice
from scenewise.training.callbacks.nan_guard import FiniteLoss
from scenewise.training.callbacks.run_folder import RunFolder
from scenewise.training.checkpoint import (
    WholeCheckpoints,
    check_checkpoint,
    continue_log,
    newest_whole,
    run_of,
)
from scenewise.training.defaults import default_backbone, describe
from scenewise.training.distributed.cpu_sync_batch_norm import CPUSyncBatchNorm
from scenewise.training.length import length_from_data
from scenewise.training.metrics.confusion import table
from scenewise.training.task import SegmentationTask


class HelpFormatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Options as jsonargparse shows them, examples as they are written."""


class SegmentationCLI(LightningCLI):
    """``fit``, ``validate`` and ``test`` of a :class:`SegmentationTask` on a data set."""

    datamodule: SegmentationData
    model: SegmentationTask
    trainer: Trainer

    @classmethod
    def start(cls, verb: str, words: Sequence[str], examples: str) -> "SegmentationCLI":
        """Parse ``words`` and run ``verb``."""
        return cls(
            SegmentationTask,
            SegmentationData,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"default_root_dir": "runs", "enable_model_summary": False},
            seed_everything_default=0,
            parser_kwargs={
                "prog": "scenewise",
                "exit_on_error": False,
                "formatter_class": HelpFormatter,
                verb: {"epilog": examples, "exit_on_error": False},
            },
            args=[verb, *words],
            auto_configure_optimizers=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The verbs, and which of their arguments are no options."""
        stock = LightningCLI.subcommands()
        return {verb: stock[verb] for verb in ("fit", "validate", "test")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the name of the run, EMA, and the checkpoints' options; link the classes."""
        parser.add_argument(
            "--name", type=str | None, help="Folder of the run in trainer.default_root_dir."
        )
        parser.add_argument(
            "--ema",
            type=float | None,
            help="Also keep an exponential moving average of the weights with this decay, for "
            "example 0.999; it is what is validated and saved.",
        )
        parser.add_argument(
            "--save_every",
            type=int | None,
            help="Write checkpoints/last.ckpt every so many steps too, not only when validating.",
        )
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/miou",
                "checkpoint.mode": "max",
                "checkpoint.filename": "best",
                "checkpoint.enable_version_counter": False,
                "checkpoint.save_on_train_epoch_end": False,  # before last.ckpt, which tells of it
            }
        )
        parser.link_arguments("data.classes", "model.classes", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and refuse a file that is no checkpoint before anything else reads it."""
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        check_declared(config)
        if config.ckpt_path == "last":
            name = config.name or config.model.network
            folder = Path(config.trainer.default_root_dir or "runs") / name
            last = newest_whole(folder)
            config.ckpt_path = None if last is None else str(last)
            print(f"going on from {last}" if last else f"no checkpoint under {folder}: a new run")
        self.before: dict[str, int] = {}
        if config.ckpt_path is not None:
            found = check_checkpoint(config.ckpt_path)
            self.before = {name: found.get(name, 0) for name in ("log_rows", "global_step")}

    def before_instantiate_classes(self) -> None:
        """Check what is to be loaded, and settle what depends on the machine."""
        config = self.config[self.subcommand]
        if config.ckpt_path is not None:
            config.model.pretrained = False
        elif self.subcommand != "fit" and config.model.weights is None:
            raise UserError(
                f"nothing to {self.subcommand}; give --model RUN_FOLDER, or --config and "
                "--ckpt_path"
            )
        if config.model.backbone is None:
            config.model.backbone = default_backbone()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A Trainer with loggers, callbacks, length and SyncBN where the user has not chosen."""
        given = self._get(self.config_init, "trainer")
        chosen: dict[str, Any] = torchrun_sizes(given.devices, given.num_nodes)
        for name, value in chosen.items():
            given[name] = value
        gpus = count_gpus(given.accelerator, given.devices, given.num_nodes)
        if gpus > 1:
            chosen["sync_batchnorm"] = True
        self.processes = gpus or count_cpu_processes(given.devices, given.num_nodes)
        if self.subcommand == "fit" and not given.fast_dev_run:
            chosen |= self._length(gpu=gpus > 0)
        for name, value in chosen.items():  # so that config.yaml tells it
            self.config[self.subcommand].trainer[name] = value
        self.run_folder = RunFolder()
        own = given.callbacks or []
        own = own if isinstance(own, list) else [own]
        bars = any(isinstance(callback, ProgressBar) for callback in own)
        if given.enable_progress_bar is None and not bars and not sys.stdout.isatty():
            chosen["enable_progress_bar"] = False  # RunFolder prints a line at each validation
        if given.logger in (None, True) and not given.fast_dev_run:
            chosen["logger"] = self._loggers(given.default_root_dir)
        chosen["callbacks"] = [*own, *self._callbacks()]
        if not bars and chosen.get("enable_progress_bar", given.enable_progress_bar) is not False:
            chosen["callbacks"].append(TQDMProgressBar())  # one line, also when epochs are many
        chosen["plugins"] = with_whole_checkpoints(given.plugins)
        if self.processes > 1 and not gpus:
            chosen["plugins"].append(CPUSyncBatchNorm())
        try:
            trainer = super().instantiate_trainer(**chosen, **kwargs)
            if self.subcommand == "fit":  # behind the best checkpoint, whose state it holds
                last = LastCheckpoint(self.config[self.subcommand].save_every)
                cast(Any, trainer).callbacks.append(last)
            return trainer
        except (ValueError, TypeError, ImportError) as error:
            raise UserError(f"{error} Change that --trainer argument") from error

    def after_instantiate_classes(self) -> None:
        """Say what is going to run."""
        self.config[self.subcommand].ckpt_path = None  # config.yaml repeats the whole run
        if not self.trainer.is_global_zero:
            return
        model = self.model.model
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        print(f"{describe(model.config())}, {millions:.1f} million parameters")
        if self.subcommand == "fit":
            steps, epochs = self.trainer.max_steps, self.trainer.max_epochs
            print(
                f"{steps} steps" if steps > 0 else f"{epochs} epochs",
                f"({self._batches()} batches an epoch),",
                f"{self.model.optimizer_name}, learning rate {self.model.lr:.3g}",
            )
            if not getattr(self.trainer, "fast_dev_run", False):
                self._look_ahead(model)

    def _look_ahead(self, model: Segmenter) -> None:
        for note in check_labels(self.datamodule):
            print(f"note: {note}")
        steps = int(self.trainer.estimated_stepping_batches)
        mixed = str(self.trainer.precision).startswith(("16", "bf16"))
        batches = steps * self.trainer.accumulate_grad_batches
        print(forecast(model, self.datamodule, self.trainer.strategy.root_device, batches, mixed))

    def before_validate(self) -> None:
        """Leave the printing to the table at the end."""
        self.config_init[self.subcommand].verbose = False

    before_test = before_validate

    def after_fit(self) -> None:
        """Print the scores of the best or tested model, and where they are."""
        if not self.trainer.is_global_zero:
            return
        matrix, classes = self.run_folder.matrix, self.model.classes
        if matrix is not None:
            Console().print(table(matrix, classes))
            found = self.run_folder.scores
            means = {name: value for name, value in found.items() if "/" not in name}
            told = [
                f"{name.replace('_', ' ')} {100 * value:.1f} %" for name, value in means.items()
            ]
            print(", ".join(told).replace("iou", "IoU"))
        if not getattr(self.trainer, "fast_dev_run", False):
            print(f"written to {self.run_folder.folder}")

    after_validate = after_fit
    after_test = after_fit

    def _length(self, *, gpu: bool) -> dict[str, Any]:
        trainer = self._get(self.config_init, "trainer")
        self.datamodule.setup("fit")
        for name in ("crop_size", "batch_size"):  # now chosen; so that config.yaml tells it
            self.config[self.subcommand].data[name] = getattr(self.datamodule, name)
        batches = self._batches()
        length = length_from_data(
            batches,
            gpu=gpu,
            max_epochs=trainer.max_epochs,
            max_steps=trainer.max_steps,
            accumulate=trainer.accumulate_grad_batches,
        )
        if trainer.val_check_interval is not None or trainer.check_val_every_n_epoch != 1:
            length.pop("val_check_interval", None)
            length.pop("check_val_every_n_epoch", None)
        if trainer.log_every_n_steps is None:
            length["log_every_n_steps"] = max(1, min(10, batches // 4))
        return length

    def _batches(self) -> int:
        """How many batches an epoch each process has."""
        return math.ceil(len(self.datamodule.train_dataloader()) / self.processes)

    def _loggers(self, root: str | None) -> list[Logger]:
        config = self.config[self.subcommand]
        network = (self.model.model.recipe or {"name": "own"})["name"]
        name = str(config.name or (network if self.subcommand == "fit" else self.subcommand))
        runs, version = Path(root or "runs").absolute() / name, None
        if self.subcommand == "fit" and config.ckpt_path is not None:
            version = run_of(Path(config.ckpt_path), runs)
        goes_on = version is not None
        version = free_version(runs) if version is None else version
        rows = CSVLogger(runs.parent, name, version, flush_logs_every_n_steps=1)
        if goes_on:
            continue_log(rows, self.before["log_rows"], self.before["global_step"])
        board = TensorBoardLogger(
            runs.parent,
            name,
            version,
            default_hp_metric=False,
            purge_step=self.before["global_step"] if goes_on else None,
        )
        return [rows, board]

    def _callbacks(self) -> list[Callback]:
        if self.subcommand != "fit":
            return [MemoryAdvice(), self.run_folder]
        decay = self.config[self.subcommand].ema
        strategy = self.config[self.subcommand].trainer.strategy
        if decay is not None and strategy in ("fsdp2", "hsdp"):
            raise UserError(f"--ema cannot go with --trainer.strategy {strategy}; leave one out")
        average = [] if decay is None else [moving_average(decay)]
        return [FiniteLoss(), MemoryAdvice(), *average, self.run_folder]


def count_cpu_processes(devices: Any, nodes: int) -> int:
    """How many processes Lightning's arguments name where there is no GPU.

    >>> count_cpu_processes("auto", 1), count_cpu_processes("2", 3)
    (1, 6)
    """
    return int(devices) * nodes if str(devices).isdigit() else nodes


def torchrun_sizes(devices: Any, nodes: int) -> dict[str, int]:
    """Lightning's ``devices`` and ``num_nodes`` as torchrun has started processes.

    Nothing without torchrun, or where the user has chosen.

    >>> torchrun_sizes(2, 1)
    {}
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or devices != "auto":
        return {}
    local, groups = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"))
    return {"devices": local, "num_nodes": groups if nodes == 1 else nodes}


def moving_average(decay: float) -> Callback:
    """Lightning's callback that keeps an exponential moving average of the weights."""
    if not 0 < decay < 1:
        raise UserError(f"--ema is {decay}; give a decay between 0 and 1, for example 0.999")
    if not hasattr(callbacks, "EMAWeightAveraging"):
        raise UserError("--ema needs lightning 2.6 or newer; pip install 'lightning>=2.6'")
    return callbacks.EMAWeightAveraging(decay=decay)


def with_whole_checkpoints(given: Any) -> list[Any]:
    """The user's plugins, and :class:`WholeCheckpoints` unless the user brought a writer.

    >>> [type(plugin).__name__ for plugin in with_whole_checkpoints(None)]
    ['WholeCheckpoints']
    """
    own = given if isinstance(given, list) else [] if given is None else [given]
    brought = any(isinstance(plugin, CheckpointIO) for plugin in own)
    return own if brought else [*own, WholeCheckpoints()]


def count_gpus(accelerator: Any, devices: Any, nodes: int) -> int:
    """How many CUDA GPUs Lightning's arguments name, on all nodes.

    >>> count_gpus("cpu", 2, 1)
    0
    """
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return 0
    if devices == "auto":
        return CUDAAccelerator.auto_device_count() * nodes
    return len(CUDAAccelerator.parse_devices(devices) or []) * nodes


def free_version(folder: Path) -> int:
    """The number of the next run in ``folder``, after version_0, version_1, ...

    >>> free_version(Path("no such folder"))
    0
    """
    taken = [path.name.removeprefix("version_") for path in folder.glob("version_*")]
    return 1 + max((int(number) for number in taken if number.isdigit()), default=-1)
