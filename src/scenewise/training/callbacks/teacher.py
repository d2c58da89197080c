"""``Teacher``: the moving average of the weights predicts on images without labels."""

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from scenewise.models.segmenter import Segmenter
from scenewise.training.task import SegmentationTask

DECAY = 0.99  # of the average, unless --ema is given


class Teacher(Callback):
    """Give the task its teacher: the network with the averaged weights and batch-norm statistics.

    Args:
        average: Lightning's callback of ``--ema``, which updates the average after each step and
            saves it; it comes before this one among the callbacks.
    """

    def __init__(self, average: Callback) -> None:
        self.average = average

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the task's teacher; the average exists from here on."""
        if stage == "fit":
            assert isinstance(pl_module, SegmentationTask)
            pl_module.teacher = self._model

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The task is as it was."""
        assert isinstance(pl_module, SegmentationTask)
        pl_module.teacher = None

    def _model(self) -> Segmenter:
        averaged = getattr(self.average, "_average_model")  # noqa: B009 - Lightning has no other way
        assert isinstance(averaged, nn.Module)
        task = averaged.module
        assert isinstance(task, SegmentationTask)
        return task.model.eval()
