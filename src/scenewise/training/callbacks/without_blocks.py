"""``WithoutBlocks``: a test with and without attention blocks, as ``without.json`` and a figure."""

from functools import partial
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from scenewise.files import write_json
from scenewise.training.ablation import BlockComparison
from scenewise.training.callbacks.run_folder import about_scores, folder_of
from scenewise.training.metrics.confusion import mean_iou
from scenewise.training.task import SegmentationTask
from scenewise.visualize.change import change_figure
from scenewise.visualize.panels import save_figure


class WithoutBlocks(Callback):
    """Predict every tested batch again without each block, as it was scored.

    At the end, ``without.json`` and ``without.png`` are written into the run folder. With several
    processes, the counts of all of them are added.

    Args:
        comparison: of the model that is tested; it has the numbers afterwards.
    """

    def __init__(self, comparison: BlockComparison) -> None:
        self.comparison = comparison

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch."""
        assert isinstance(pl_module, SegmentationTask)
        with trainer.precision_plugin.test_step_context():
            self.comparison.add(partial(pl_module.labels_of, batch["image"]), batch["mask"])

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file and the figure."""
        assert isinstance(pl_module, SegmentationTask)
        compared = self.comparison
        if trainer.world_size > 1:
            _merge_processes(compared, trainer)
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        folder = folder_of(trainer)
        about = about_scores(trainer, pl_module, "test", pl_module.model)
        write_json(folder / "without.json", compared.to_dict() | {"about": about})
        mean = mean_iou(compared.matrix)
        changes = {
            name: [*compared.change(name), 100 * (mean_iou(matrix) - mean)]
            for name, matrix in compared.without.items()
        }
        names = [*compared.classes.names, "mean (mIoU)"]
        save_figure(change_figure(names, changes), folder / "without.png")


def _merge_processes(compared: BlockComparison, trainer: Trainer) -> None:
    shares: list[Any] = [None] * trainer.world_size
    dist.all_gather_object(shares, (compared.matrix, compared.without, compared.attention))
    for rank, share in enumerate(shares):
        if rank != trainer.global_rank:
            compared.merge(*share)
