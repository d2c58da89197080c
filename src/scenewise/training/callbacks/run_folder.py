"""``RunFolder``: writes the best model of a run and its scores into the run folder."""

import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from scenewise.data.module import SegmentationData
from scenewise.files import write_json, write_text
from scenewise.inference.protocols import PROTOCOLS
from scenewise.inference.quality import QUALITIES
from scenewise.models.checkpoints import load_model
from scenewise.models.safe_load import read_file
from scenewise.models.segmenter import Segmenter
from scenewise.training.loggers import RunLog
from scenewise.training.metrics.confusion import matrix_csv
from scenewise.training.provenance import data_revision, provenance
from scenewise.training.task import SegmentationTask
from scenewise.visualize.confusion import confusion_figure
from scenewise.visualize.panels import save_figure

SPLITS = "splits"  # folder of the lists of a seeded division


class RunFolder(Callback):
    """Write ``config.json``, ``model.safetensors`` and the scores into the run folder.

    After ``fit`` the model is that of the best checkpoint (of the last step if no validation ran),
    also when the training was interrupted with Ctrl-C. ``load_model`` and ``--model`` take the
    folder.

    Args:
        folder: the run folder; by default that of the first logger.

    Attributes:
        folder: the run folder.
        config: text of ``config.yaml``, written when everything given has been accepted.
        matrix: the confusion matrix of the model that was written or evaluated, if any.
        scores: its scores by name.
        model: the best model, after ``fit``.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path()
        self._given = folder
        self.config: str | None = None
        self.matrix: Tensor | None = None
        self.scores: dict[str, float] = {}
        self.model: Segmenter | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the folder, in every process that of the first."""
        given = self._given or Path(trainer.log_dir or trainer.default_root_dir)
        self.folder = trainer.strategy.broadcast(given)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``config.yaml`` and continue the log: the checkpoint and all options are good."""
        self._begin(trainer)
        data = getattr(trainer, "datamodule", None)
        train = trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False)
        if train and isinstance(data, SegmentationData) and data.source:
            data.source.write_division(self.folder / SPLITS)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``config.yaml`` of ``validate``."""
        if trainer.state.fn != TrainerFn.FITTING:
            self._begin(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``config.yaml`` of ``test``."""
        self._begin(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After ``validate``, write the scores."""
        assert isinstance(pl_module, SegmentationTask)
        if trainer.sanity_checking or pl_module.matrix is None:
            return
        if trainer.state.fn != TrainerFn.FITTING:
            self._evaluated(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the scores."""
        assert isinstance(pl_module, SegmentationTask)
        self._evaluated(trainer, pl_module, "test")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the best model and its scores."""
        self._write_best(trainer, pl_module)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write the best model so far when the user interrupts a training that has one."""
        fitting = trainer.state.fn == TrainerFn.FITTING
        if isinstance(exception, KeyboardInterrupt) and fitting and _best(trainer) is not None:
            self._write_best(trainer, pl_module)
            exception.add_note(f"the best model so far is in {self.folder}")

    def _begin(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        if self.config is not None:
            write_text(self.folder / "config.yaml", self.config)
        for logger in trainer.loggers:
            if isinstance(logger, RunLog):
                logger.begin()

    def _evaluated(self, trainer: Trainer, task: SegmentationTask, stage: str) -> None:
        self.matrix, self.scores = task.matrix, task.scores
        self._write_scores(trainer, task, stage, task.model, self.scores)

    def _write_best(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, SegmentationTask)
        if getattr(trainer, "fast_dev_run", False):
            return
        best = _best(trainer)
        if best is not None:
            model = pl_module.model
            into = deepcopy(model) if model.recipe is None else None  # no config can rebuild it
            model = load_model(best, into=into)
            saved = read_file(best)
            step, validated = int(saved["global_step"]), saved.get("validated")
        else:
            model, step, validated = pl_module.model, trainer.global_step, pl_module.validated
        self.model = model
        if trainer.is_global_zero:
            model.save_pretrained(self.folder)
        if validated is not None and validated["step"] == step:
            self.matrix = validated["matrix"]
            self.scores = pl_module.metrics.scores_of(self.matrix)
            when = {"epoch": validated["epoch"], "step": step}
            self._write_scores(trainer, pl_module, "val", model, when | self.scores)

    def _write_scores(
        self,
        trainer: Trainer,
        task: SegmentationTask,
        stage: str,
        model: Segmenter,
        values: dict[str, Any],
    ) -> None:
        if not trainer.is_global_zero or self.matrix is None:
            return
        about = about_scores(trainer, task, stage, model)
        content = {stage: _without_nan(values), "about": about}
        write_json(self.folder / "metrics.json", content)
        write_text(self.folder / "confusion.csv", matrix_csv(self.matrix, task.classes))
        save_figure(confusion_figure(self.matrix, task.classes), self.folder / "confusion.png")


def about_scores(
    trainer: Trainer, task: SegmentationTask, stage: str, model: Segmenter
) -> dict[str, Any]:
    """How the scores of a stage were made, and fingerprints of model and data."""
    about: dict[str, Any] = provenance(model, task.protocol)
    about["eval_window"], about["quality"] = task.eval_window, task.quality
    data = getattr(trainer, "datamodule", None)
    if isinstance(data, SegmentationData):
        split = data.test_split if stage == "test" else stage
        about["data"] = {"format": data.format, "split": split}
        about["data"] |= data_revision(data.dataset(split))
        limit = getattr(trainer, f"limit_{stage}_batches")
        if isinstance(limit, int) or limit < 1:  # 1 is one batch, 1.0 all of them
            about["data"]["limit_batches"] = limit
    return about


def scored_with(folder: Path) -> dict[str, Any]:
    """How a run was scored: ``eval_window``, ``quality`` and ``protocol``, where they were set.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_json(folder / "metrics.json", {"about": {"eval_window": 300, "protocol": None}})
    >>> scored_with(folder), scored_with(folder / "none")
    ({'eval_window': 300}, {})
    """
    try:
        about = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["about"]
        found = {name: about.get(name) for name in ("eval_window", "protocol", "quality")}
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return {}  # a model without scores
    if found["protocol"] in PROTOCOLS:  # else what whole images are called
        return {"protocol": found["protocol"]}
    known = {"eval_window": isinstance(found["eval_window"], int)}
    known |= {"quality": found["quality"] in QUALITIES}
    return {name: found[name] for name, is_known in known.items() if is_known}


def folder_of(trainer: Trainer) -> Path:
    """The run folder of a Trainer."""
    own = [c for c in trainer.callbacks if isinstance(c, RunFolder)]  # type: ignore[attr-defined]
    return own[0].folder if own else Path(trainer.log_dir or trainer.default_root_dir)


def _best(trainer: Trainer) -> Path | None:
    """The best checkpoint so far."""
    saver = trainer.checkpoint_callback
    path = saver.best_model_path if isinstance(saver, ModelCheckpoint) else ""
    return Path(path) if Path(path).is_file() else None


def _without_nan(values: dict[str, Any]) -> dict[str, Any]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}
