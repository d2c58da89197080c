"""``WorstImages``: ``worst.png``, the tested images with the lowest mean IoU and their errors."""

import math
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from scenewise.inference.predictor import display
from scenewise.training.callbacks.run_folder import folder_of
from scenewise.training.metrics.confusion import confusion_matrix, iou, mean_iou
from scenewise.training.task import SegmentationTask
from scenewise.visualize.overlay import save_image
from scenewise.visualize.training import Sample, samples_sheet

_COUNT = 12
_WIDTH = 720  # pixels of a kept image, at most; the sheet shows fewer
_Scored = tuple[float, Sample]


class WorstImages(Callback):
    """Draw the twelve test images with the lowest mean IoU, the worst first.

    The mean is over the classes that occur in the labels or the prediction of that image. Each row
    has the image, its labels and the prediction that was scored, with the errors hatched, and names
    the class with the lowest IoU. With several processes, all of them contribute.
    """

    def __init__(self) -> None:
        self._worst: list[_Scored] = []  # the lowest score first

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last test."""
        self._worst = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the images that are among the worst so far."""
        assert isinstance(pl_module, SegmentationTask)
        if pl_module.labels is None:
            return
        classes = pl_module.classes
        for index, name in enumerate(batch["name"]):
            labels, mask = pl_module.labels[index], batch["mask"][index]  # (H, W) each
            matrix = confusion_matrix(labels, mask, len(classes), classes.ignore_index)
            score = mean_iou(matrix)
            full = len(self._worst) == _COUNT
            if math.isnan(score) or (full and score >= self._worst[-1][0]):
                continue
            lowest = int(iou(matrix).nan_to_num(math.inf).argmin())
            text = f"{name} (mean IoU {100 * score:.1f} %, lowest: {classes.names[lowest]})"
            shown = display(batch["image"][index], pl_module.model)
            sample = Sample(text, *(_small(x) for x in (shown, mask, labels)))
            self._worst = _lowest([*self._worst, (score, sample)])

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the sheet."""
        assert isinstance(pl_module, SegmentationTask)
        worst = _lowest(_of_all_processes(self._worst, trainer.world_size))
        if not worst or not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        sheet = samples_sheet([sample for _, sample in worst], pl_module.classes, ())
        save_image(folder_of(trainer) / "worst.png", sheet)


def _lowest(scored: list[_Scored]) -> list[_Scored]:
    """The lowest scores, each image once: processes may share one to be equally busy."""
    once = {sample.name: (score, sample) for score, sample in scored}
    return sorted(once.values(), key=lambda pair: pair[0])[:_COUNT]


def _small(x: Tensor) -> Tensor:
    """(..., H, W) on the CPU, with at most ``_WIDTH`` columns."""
    step = -(-x.shape[-1] // _WIDTH)  # rounded up
    return x[..., ::step, ::step].cpu()


def _of_all_processes(scored: list[_Scored], processes: int) -> list[_Scored]:
    if processes == 1:
        return scored
    shares: list[Any] = [None] * processes
    dist.all_gather_object(shares, scored)
    return [pair for share in shares for pair in share]
