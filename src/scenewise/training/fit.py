"""``fit``: train a network from Python as ``scenewise fit`` does, with one call."""

import difflib
import inspect
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor

from scenewise.data.module import SegmentationData
from scenewise.errors import UserError
from scenewise.models.segmenter import Segmenter
from scenewise.training.checkpoint import ResumePoint, resume_point
from scenewise.training.defaults import default_backbone, network_name
from scenewise.training.preflight import prepare
from scenewise.training.resume import adopt_recipe
from scenewise.training.task import SegmentationTask
from scenewise.training.trainer import build_trainer, quiet, run_folder


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        folder: the run folder, for ``load_model`` and ``--model``.
        model: the best model, in evaluation mode.
        scores: its validation scores by name; empty without a validation.
        matrix: its (K, K) confusion matrix; None without a validation.
    """

    folder: Path
    model: Segmenter
    scores: dict[str, float]
    matrix: Tensor | None


def fit(
    data: SegmentationData | str | Path,
    *,
    name: str | None = None,
    root: str | Path = "runs",
    resume: str | Path | None = None,
    ema: float | None = None,
    save_every: int | None = None,
    budget: str | None = None,
    seed: int = 0,
    **options: Any,
) -> Run:
    """Train a network and leave a run folder, exactly as ``scenewise fit`` does.

    Args:
        data: a data module, or the folder of a dataset; then ``format`` and the other arguments of
            :class:`~scenewise.data.SegmentationData` may be among the options, such as
            ``unlabelled``, a folder of images without labels.
        name: folder of the run in ``root``; by default the network's name.
        root: folder of all runs; the run is in ``root/NAME/version_N``.
        resume: "last" for the newest whole checkpoint of the runs called ``name`` (a new run if
            there is none), a run folder, or the path of a checkpoint. The result is that of an
            uninterrupted run.
        ema: decay of an exponential moving average of the weights, to which it rises in the
            first steps; the average is validated and saved. Default: none; 0.99 with
            ``unlabelled``, whose teacher it is.
        save_every: write ``checkpoints/last.ckpt`` every so many steps too.
        budget: time for the training, such as "30m": as many steps as fit, measured before the
            first. Default: an hour without a GPU, unless a length is given.
        seed: of the initial weights and everything random. PyTorch, NumPy and Python are seeded.
        **options: arguments of :class:`~scenewise.training.task.SegmentationTask` (``network``,
            ``backbone``, ``start``, ``lr``, ...) and of ``lightning.pytorch.Trainer``
            (``max_epochs``, ``max_steps``, ``accelerator``, ``precision``, ``callbacks``, ...).

    Returns:
        The run, with the best model.

    Raises:
        UserError: a wrong option or file, a loss that is NaN.

    >>> import tempfile
    >>> scenes = SegmentationData("scenes", scenes_train=4, scenes_val=1, batch_size=2)
    >>> run = fit(scenes, network="fcn", backbone="tiny", max_steps=2, accelerator="cpu",
    ...           root=tempfile.mkdtemp(), enable_progress_bar=False)
    fcn with backbone tiny...
    >>> sorted(path.name for path in run.folder.iterdir())[:4]
    ['checkpoints', 'config.json', 'config.yaml', 'confusion.csv']
    """
    seed_everything(seed, workers=True, verbose=False)  # as the command line does
    of_data, of_task, of_trainer = _split(options)
    data = _data_module(data, of_data, seed)
    with quiet():
        if isinstance(of_task.get("start"), Path):
            of_task["start"] = str(of_task["start"])  # config.yaml holds plain values
        point = None
        if resume is not None:
            network = network_name(*(of_task.get(n) for n in ("network", "start", "backbone")))
            point = resume_point(resume, Path(root) / (name or network))
        if of_task.get("start") is None:
            of_task.setdefault("backbone", default_backbone())  # so that config.yaml has it
        task = SegmentationTask(data.classes, data.images, **_resumed(of_task, point))
        config = _config(data, of_task, of_trainer | {"default_root_dir": str(root)})
        general = {"seed_everything": seed, "name": name, "ema": ema, "save_every": save_every}
        config |= {option: value for option, value in general.items() if value is not None}
        trainer = build_trainer(
            task,
            data,
            name=name,
            resume=point,
            ema=ema,
            save_every=save_every,
            budget=budget,
            config=config,
            default_root_dir=root,
            **of_trainer,
        )
        lines = prepare(trainer, task, data, config, resumed=point is not None)
        run_folder(trainer).config = _text(config)
        if trainer.is_global_zero:
            print("\n".join(lines))
        _fit(trainer, task, data, None if point is None else point.path)
    run = run_folder(trainer)  # knows the best model
    return Run(run.folder, (run.model or task.model).eval(), run.scores, run.matrix)


def _resumed(of_task: dict[str, Any], point: ResumePoint | None) -> dict[str, Any]:
    """The options of the task; a checkpoint that is resumed has the weights and the network."""
    if point is None:
        return of_task
    start = None if of_task.get("start") is None else str(point.path)
    options = of_task | {"pretrained": False, "start": start}
    adopt_recipe(point, options)
    return options


def _parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


_NULL = "check_val_every_n_epoch"  # its default is 1
_OF_DATA = _parameters(SegmentationData) - {"root", "seed"}
_OF_TASK = _parameters(SegmentationTask) - {"classes", "images"}
_OF_TRAINER = _parameters(Trainer) - {"default_root_dir"}


def _split(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The options of the data, of the task and of the Trainer.

    >>> _split({"network": "fcn", "max_steps": 3, "flip": False})
    ({'flip': False}, {'network': 'fcn'}, {'max_steps': 3})
    >>> _split({"max_step": 3})
    Traceback (most recent call last):
    scenewise.errors.UserError: unknown option 'max_step'; did you mean 'max_steps'?
    """
    known = _OF_DATA | _OF_TASK | _OF_TRAINER
    for name in options.keys() - known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "help(scenewise.fit) has the list"
        raise UserError(f"unknown option '{name}'; {hint}")
    of_data, of_task, of_trainer = (
        {name: value for name, value in options.items() if name in names}
        for names in (_OF_DATA, _OF_TASK, _OF_TRAINER)
    )
    return of_data, of_task, of_trainer


def _data_module(
    data: SegmentationData | str | Path, options: dict[str, Any], seed: int
) -> SegmentationData:
    if not isinstance(data, SegmentationData):
        return SegmentationData(root=str(data), seed=seed, **options)
    if options:
        raise UserError(
            f"{', '.join(sorted(options))} must be given to the SegmentationData, not to fit"
        )
    return data


def _config(
    data: SegmentationData, of_task: dict[str, Any], of_trainer: dict[str, Any]
) -> dict[str, Any]:
    """The sections of ``config.yaml``: every option with its value, and the defaults."""
    of_data = {name: getattr(data, name) for name in inspect.signature(SegmentationData).parameters}
    of_task = _defaults(SegmentationTask) | of_task
    return {"trainer": _defaults(Trainer) | of_trainer, "data": of_data, "model": of_task}


def _defaults(function: Any) -> dict[str, Any]:
    """The values of parameters that are not given."""
    parameters = inspect.signature(function).parameters.items()
    return {name: p.default for name, p in parameters if p.default not in (p.empty, None)}


def _text(config: dict[str, Any]) -> str:
    """``config.yaml`` without nulls, but that of validation by steps, and without objects."""
    plain = {
        name: {k: v for k, v in value.items() if _is_plain(v) and (v is not None or k == _NULL)}
        if isinstance(value, dict)
        else value
        for name, value in config.items()
    }
    return yaml.safe_dump(plain, sort_keys=False)


def _is_plain(value: Any) -> bool:
    try:
        yaml.safe_dump(value)
    except yaml.YAMLError:
        return False
    return True


def _fit(
    trainer: Trainer, task: SegmentationTask, data: SegmentationData, checkpoint: Path | None
) -> None:
    """``trainer.fit``, where Ctrl-C raises KeyboardInterrupt as everywhere in Python."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint)
    except SystemExit as stop:
        interrupt = stop.__context__
        if isinstance(interrupt, KeyboardInterrupt):  # Lightning exits and ignores SIGINT
            signal.signal(signal.SIGINT, handler)
            raise interrupt from None
        raise
