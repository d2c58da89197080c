"""``build_trainer``: Lightning's Trainer with a run's loggers, callbacks, plugins and length.

The command line, ``scenewise demo`` and :func:`scenewise.fit` all train with what it returns.
"""

import inspect
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer, callbacks
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.plugins.io import CheckpointIO

from scenewise.data.module import SegmentationData
from scenewise.errors import UserError
from scenewise.training.balance import class_balance
from scenewise.training.callbacks.feature_cache import FeatureCache, refuse_cache
from scenewise.training.callbacks.figures import RunFigures
from scenewise.training.callbacks.last_checkpoint import LastCheckpoint
from scenewise.training.callbacks.memory_advice import MemoryAdvice
from scenewise.training.callbacks.nan_guard import NaNGuard
from scenewise.training.callbacks.progress import TrainingBar, TrainingLines
from scenewise.training.callbacks.run_folder import SPLITS, RunFolder
from scenewise.training.callbacks.signals import ObeySignals, Signals
from scenewise.training.callbacks.teacher import DECAY, Teacher
from scenewise.training.callbacks.worst_images import WorstImages
from scenewise.training.checkpoint import (
    ResumePoint,
    WholeCheckpoints,
    refuse_other_model,
    shapes_of,
)
from scenewise.training.defaults import default_precision
from scenewise.training.distributed.cpu_sync_batch_norm import CPUSyncBatchNorm
from scenewise.training.distributed.fsdp import SHARDED
from scenewise.training.length import choose_length, planned_steps
from scenewise.training.loggers import loggers_of, run_path
from scenewise.training.moving_average import moving_average
from scenewise.training.resume import Settings, adopt, changes, refuse_other_data, settings
from scenewise.training.switches import refuse_switches
from scenewise.training.task import SegmentationTask

Stage = Literal["fit", "validate", "test"]

# How the best checkpoint is chosen, as arguments of Lightning's ModelCheckpoint.
BEST_CHECKPOINT: dict[str, Any] = {
    "monitor": "val/miou",
    "mode": "max",
    "filename": "best",
    "enable_version_counter": False,
    "save_on_train_epoch_end": False,  # else it would be written after last.ckpt, which names it
}
_LIGHTNING = {
    name: parameter.default
    for name, parameter in inspect.signature(Trainer.__init__).parameters.items()
    if parameter.default is not parameter.empty
}
_DEFAULTS = _LIGHTNING | {"default_root_dir": "runs", "enable_model_summary": False}
_HARMLESS = (  # warnings of Lightning about what is on purpose here
    "LightningCLI's args parameter",  # main() takes its arguments from the console script
    r".*does not have many workers",  # the data module chose the number
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",  # inside Lightning
    "Your `IterableDataset` has `__len__` defined",  # and it is exact
    r"The dirpath has changed from",  # a run resumed from another run's checkpoint
    r"You're resuming from a checkpoint that ended before the epoch ended",  # the loader knows
    r"Checkpoint directory .* exists and is not empty",
    r"Found \d+ module\(s\) in eval mode at the start of training",  # frozen parts
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    "The checkpoint was not created with WeightAveraging",  # the change of --ema is reported
)
_HARMLESS_OUTSIDE_FIT = (r"Be aware that when using `ckpt_path`, callbacks",)


def build_trainer(  # noqa: PLR0913 - what a run can have
    task: SegmentationTask,
    data: SegmentationData,
    *,
    stage: Stage = "fit",
    name: str | None = None,
    resume: ResumePoint | None = None,
    ema: float | None = None,
    save_every: int | None = None,
    budget: str | None = None,
    config: Any = None,
    **options: Any,
) -> Trainer:
    """A Lightning Trainer for one run: what ``scenewise fit``, ``validate`` and ``test`` use.

    It adds a run folder ``default_root_dir/NAME/version_N`` with the best model and its scores,
    logs as CSV and for TensorBoard, checkpoints ``best`` and ``last`` that appear whole or not at
    all, exact resume, a stop at the first NaN, advice when memory runs out, synchronised batch norm
    over several processes, and a length chosen from the data. Options that are given are kept.

    Args:
        task: the network and how it is trained.
        data: for ``fit`` it is set up here, because the length depends on it.
        stage: what the Trainer is for.
        name: folder of the run; by default the network's name.
        resume: where the run is resumed, from :func:`scenewise.training.checkpoint.resume_point`;
            give its path to ``trainer.fit(..., ckpt_path=...)`` too.
        ema: decay of an exponential moving average of the weights, to which it rises in the
            first steps; the average is validated and saved. Default: none; 0.99 with
            unlabelled images, whose teacher the average is.
        save_every: write ``last.ckpt`` every so many steps too, not only after validations.
        budget: time for the training, such as "30m"; the steps that fit are measured. A training
            that is resumed keeps its length.
        config: mapping with the keys ``trainer`` and ``data``, to which the choices are added.
        **options: arguments of ``lightning.pytorch.Trainer``; ``default_root_dir`` is "runs".

    Raises:
        UserError: an option that is unknown, invalid or contradicts another.

    >>> import tempfile
    >>> data = SegmentationData("scenes", scenes_train=4, scenes_size=(32, 64), batch_size=2)
    >>> task = SegmentationTask(data.classes, network="fcn", backbone="tiny")
    >>> trainer = build_trainer(task, data, default_root_dir=tempfile.mkdtemp(), accelerator="cpu")
    >>> trainer.max_epochs, [type(logger).__name__ for logger in trainer.loggers]
    (40, ['RunLog', 'TensorBoardLogger'])
    """
    options = _DEFAULTS | options  # every option has a value from here on
    if resume is not None:
        data.use_division(resume.path.parents[1] / SPLITS)
    gpus, processes, chosen = _devices(options)
    fitting, own = stage == "fit", _listed(options["callbacks"])
    if fitting:
        refuse_switches(options, own)
    cached = fitting and data.cache_features is not None
    if cached:
        refuse_cache(task, data, options, processes)
    if fitting and resume is not None:
        adopt(resume, data, options)
    if fitting:
        chosen |= _choices(task, data, options, budget if resume is None else None, gpus, processes)
    ema = _decay(ema, data) if fitting else None  # elsewhere the checkpoint holds the average
    if config is not None:
        _record(config, chosen, data)
        if ema is not None:
            config["ema"] = ema
    options |= chosen
    now = _accept(task, data, options, processes, ema, resume) if fitting else {}
    root = Path(options["default_root_dir"] or "runs").absolute()
    folder = run_path(root, name or _run_name(task, stage), resume)
    if not options["fast_dev_run"]:
        options["logger"] = loggers_of(options["logger"], folder, resume)
    sync = [CPUSyncBatchNorm()] if processes > 1 and not gpus else []
    options["plugins"] = [*_whole_checkpoints(options["plugins"]), *sync]
    options["enable_progress_bar"], bar = _progress(options["enable_progress_bar"], own)
    average = [] if ema is None else _averaging(ema, options["strategy"], data)
    signals = Signals()
    options["callbacks"] = [
        *own,
        ObeySignals(signals),
        *([FeatureCache(folder / "features")] if cached else []),
        *_run_callbacks(stage),
        *average,
        RunFolder(folder),
        *bar,
    ]
    if fitting and options["enable_checkpointing"] is not False:
        options["callbacks"] += _savers(own, folder)
        options["callbacks"].append(LastCheckpoint(save_every, signals, now, resume))
    try:
        return Trainer(**options)
    except (ValueError, TypeError, ImportError, MisconfigurationException) as error:
        raise UserError(f"{error} Change that --trainer argument") from error


def _choices(
    task: SegmentationTask,
    data: SegmentationData,
    options: dict[str, Any],
    budget: str | None,
    gpus: int,
    processes: int,
) -> dict[str, Any]:
    """Precision, length, warm-up and class weights, where they are open; the task gets its own."""
    chosen: dict[str, Any] = {}
    if task.balance:
        data.setup("fit")
        task.weigh_classes(class_balance(data.dataset("train")))
    if options["precision"] is None and options["plugins"] is None:
        precision = default_precision(task.model, "cuda" if gpus else "cpu")
        chosen = {} if precision is None else {"precision": precision}
    if options["fast_dev_run"]:
        return chosen
    options = options | chosen
    length = choose_length(task, data, options, budget=budget, gpus=gpus, processes=processes)
    print("\n".join(length.lines), end="\n" if length.lines else "")
    chosen |= length.options
    if task.warmup is None:
        task.warmup = task.default_warmup(planned_steps(data, options | chosen, processes))
    return chosen


def _accept(
    task: SegmentationTask,
    data: SegmentationData,
    options: dict[str, Any],
    processes: int,
    ema: float | None,
    resume: ResumePoint | None,
) -> Settings:
    """The settings of this training; those of the checkpoint that is resumed must go with them.

    Nothing has been written yet.
    """
    if options["fast_dev_run"]:
        return {}
    now = settings(task, data, options, processes=processes, ema=ema)
    if resume is not None:
        refuse_other_data(resume, data.classes)
        refuse_other_model(resume.config, resume.shapes, task.model, shapes_of(task.state_dict()))
        different = changes(resume, now)
        if different:
            print(f"resumed with {', '.join(different)}")
    return now


def _savers(own: list[Any], folder: Path) -> list[Callback]:
    """The checkpoint of the best model, unless the user has one; all write into the run folder."""
    savers = [callback for callback in own if isinstance(callback, ModelCheckpoint)]
    new = [] if savers else [ModelCheckpoint(**BEST_CHECKPOINT)]
    for saver in savers + new:
        if saver.dirpath is None:
            saver.dirpath = str(folder / "checkpoints")
    return [*new]


def run_folder(trainer: Trainer) -> RunFolder:
    """The callback of a Trainer that knows the run's folder, scores and best model."""
    return next(c for c in trainer.callbacks if isinstance(c, RunFolder))  # type: ignore[attr-defined]


@contextmanager
def quiet(stage: Stage = "fit") -> Iterator[None]:
    """Hide Lightning's tips, and its warnings about what is on purpose here.

    Raises:
        UserError: a package is missing that a callback or logger needs.
    """
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for text in _HARMLESS + (() if stage == "fit" else _HARMLESS_OUTSIDE_FIT):
            warnings.filterwarnings("ignore", message=text)
        try:
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            yield
        except ImportError as error:
            package = re.search(r"pip install (?:-U )?['\"]?([\w-]+)", str(error))
            if package is None:
                raise
            raise UserError(f"a package is missing; pip install {package[1]}") from error
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _run_callbacks(stage: Stage) -> list[Callback]:
    """What watches over the run; the guard comes first, before anything is written."""
    watching: list[Callback] = [NaNGuard(), MemoryAdvice(), TrainingLines(), RunFigures()]
    tested: list[Callback] = [WorstImages()] if stage == "test" else []
    return watching if stage == "fit" else [MemoryAdvice(), *tested]


def _run_name(task: SegmentationTask, stage: Stage) -> str:
    return str((task.model.recipe or {"name": "custom"})["name"]) if stage == "fit" else stage


def _record(config: Any, chosen: dict[str, Any], data: SegmentationData) -> None:
    """Add the choices to the configuration, so that ``config.yaml`` has them."""
    for name, value in chosen.items():
        config["trainer"][name] = value
    for name in ("crop_size", "batch_size"):
        config["data"][name] = getattr(data, name)


def _devices(options: dict[str, Any]) -> tuple[int, int, dict[str, Any]]:
    """Numbers of GPUs and of processes on all nodes, and the options that follow from them."""
    chosen: dict[str, Any] = _torchrun_sizes(options["devices"], options["num_nodes"])
    options = options | chosen
    if options["devices"] in (0, "0"):
        raise UserError("--trainer.devices is 0; give a number of processes, 1 or more")
    gpus = _count_gpus(options["accelerator"], options["devices"], options["num_nodes"])
    if gpus > 1:
        chosen["sync_batchnorm"] = True
    return gpus, gpus or _count_cpu_processes(options["devices"], options["num_nodes"]), chosen


def _progress(enabled: bool | None, own: list[Any]) -> tuple[bool | None, list[Callback]]:
    """Lightning's switch, and the bar to add: one line, also when epochs are many.

    Without a terminal there is none: the run folder's callback prints a line at each validation.
    """
    if any(isinstance(callback, ProgressBar) for callback in own):
        return enabled, []
    if enabled is None and not sys.stdout.isatty():
        enabled = False
    return enabled, [] if enabled is False else [TrainingBar()]


def _decay(ema: float | None, data: SegmentationData) -> float | None:
    """Of the average of the weights; images without labels need one."""
    return DECAY if ema is None and data.unlabelled is not None else ema


def _averaging(decay: float, strategy: Any, data: SegmentationData) -> list[Callback]:
    """The average of the weights, and with images without labels its use as a teacher."""
    if data.unlabelled is None:
        return [_moving_average(decay, strategy)]
    average = _moving_average(decay, strategy, "--unlabelled")
    return [average, Teacher(average)]


def _moving_average(decay: float, strategy: Any = "auto", option: str = "--ema") -> Callback:
    """Lightning's callback that keeps an exponential moving average of the weights."""
    if strategy in SHARDED:
        raise UserError(
            f"{option} cannot be used with --trainer.strategy {strategy}; leave one out"
        )
    if not 0 < decay < 1:
        raise UserError(f"--ema is {decay}; give a decay between 0 and 1, for example 0.999")
    if not hasattr(callbacks, "WeightAveraging"):
        raise UserError(f"{option} needs lightning 2.6 or newer; pip install 'lightning>=2.6'")
    return callbacks.WeightAveraging(multi_avg_fn=moving_average(decay))


def _whole_checkpoints(plugins: Any) -> list[Any]:
    """The user's plugins, and :class:`WholeCheckpoints` unless the user has a writer among them.

    >>> [type(plugin).__name__ for plugin in _whole_checkpoints(None)]
    ['WholeCheckpoints']
    """
    own = _listed(plugins)
    writes = any(isinstance(plugin, CheckpointIO) for plugin in own)
    return own if writes else [*own, WholeCheckpoints()]


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _count_cpu_processes(devices: Any, nodes: int) -> int:
    """How many processes Lightning's arguments name where there is no GPU.

    >>> _count_cpu_processes("auto", 1), _count_cpu_processes("2", 3)
    (1, 6)
    """
    return int(devices) * nodes if str(devices).isdigit() else nodes  # "auto" is one process a node


def _torchrun_sizes(devices: Any, nodes: int) -> dict[str, int]:
    """Lightning's ``devices`` and ``num_nodes`` as torchrun has started processes.

    Nothing without torchrun, or where the user has chosen.

    >>> _torchrun_sizes(2, 1)
    {}
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or devices != "auto":
        return {}
    local, groups = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"))
    return {"devices": local, "num_nodes": groups if nodes == 1 else nodes}


def _count_gpus(accelerator: Any, devices: Any, nodes: int) -> int:
    """How many CUDA GPUs Lightning's arguments name, on all nodes.

    >>> _count_gpus("cpu", 2, 1)
    0
    """
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return 0
    if devices == "auto":
        return CUDAAccelerator.auto_device_count() * nodes
    return len(CUDAAccelerator.parse_devices(devices) or []) * nodes
