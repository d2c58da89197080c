"""``RunFigures``: ``curves.png`` and ``samples.png`` in the run folder, after each validation."""

import csv
from time import monotonic
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn

from scenewise.inference.predictor import display
from scenewise.training.callbacks.run_folder import folder_of
from scenewise.training.task import SegmentationTask
from scenewise.visualize.overlay import save_image
from scenewise.visualize.panels import save_figure
from scenewise.visualize.training import Sample, confusions, curves_figure, samples_sheet

_SAMPLES = 4
_SHARE = 0.05  # of the time that drawing may take, except at the end


class RunFigures(Callback):
    """Draw the curves and a few validation images with labels and predictions.

    The images are spread evenly over the validation split, and drawn as they were scored. The sheet
    also names the classes that are mistaken most often, and goes to TensorBoard. Where validations
    follow each other so fast that drawing would take more than a twentieth of the time, some are
    left out, but not the last.
    """

    def __init__(self) -> None:
        self._samples: list[Sample] = []
        self._drawn_at = float("-inf")
        self._seconds = 0.0  # of the last drawing
        self._waiting = False  # a validation has not been drawn

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the samples of the last validation."""
        self._samples = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first image of a few batches."""
        assert isinstance(pl_module, SegmentationTask)
        labels = pl_module.labels
        if not _fitting(trainer) or not trainer.is_global_zero or labels is None:
            return
        count = trainer.num_val_batches[0]
        if isinstance(count, int) and batch_idx in {i * count // _SAMPLES for i in range(_SAMPLES)}:
            name, image, mask = batch["name"][0], batch["image"][0], batch["mask"][0]
            shown = display(image, pl_module.model).cpu()
            self._samples.append(Sample(name, shown, mask.cpu(), labels[0].cpu()))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, unless that was done a moment ago."""
        assert isinstance(pl_module, SegmentationTask)
        if not _fitting(trainer) or trainer.sanity_checking or pl_module.matrix is None:
            return
        self._waiting = True
        if monotonic() - self._drawn_at >= self._seconds / _SHARE:
            self._draw(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last validation."""
        assert isinstance(pl_module, SegmentationTask)
        if self._waiting:
            self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, task: SegmentationTask) -> None:
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        begin, self._waiting = monotonic(), False
        folder = folder_of(trainer)
        if (folder / "metrics.csv").is_file():
            with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
                save_figure(curves_figure(list(csv.DictReader(file))), folder / "curves.png")
        if self._samples and task.matrix is not None:
            notes = [f"step {trainer.global_step}", *confusions(task.matrix.cpu(), task.classes)]
            sheet = samples_sheet(self._samples, task.classes, notes)
            save_image(folder / "samples.png", sheet)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    pixels = np.asarray(sheet)  # (H, W, 3)
                    step = trainer.global_step
                    logger.experiment.add_image("samples", pixels, step, dataformats="HWC")
        self._drawn_at = monotonic()
        self._seconds = self._drawn_at - begin


def _fitting(trainer: Trainer) -> bool:
    return trainer.state.fn == TrainerFn.FITTING
