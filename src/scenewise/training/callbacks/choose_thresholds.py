"""``ChooseThresholds``: thresholds from the validation images, before a test, stored in a model."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from scenewise.data.module import SegmentationData
from scenewise.errors import UserError
from scenewise.files import parse_json, write_json
from scenewise.models.segmenter import CONFIG
from scenewise.training.callbacks.run_folder import about_scores, folder_of
from scenewise.training.task import SegmentationTask
from scenewise.training.thresholds import ThresholdScores, ThresholdSearch


class ChooseThresholds(Callback):
    """Choose thresholds on the validation images, and score them with the test images.

    Images are predicted as they are scored. At the end the thresholds are written into
    ``config.json`` of the model, and with F1 before and after into ``thresholds.json`` of the run
    folder. What the test reports otherwise does not change. With several processes, the counts of
    all of them are added.

    Args:
        folder: of the model that is tested.

    Attributes:
        scores: F1 before and after, once the test has begun.

    Raises:
        UserError: the folder is not a model's.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / CONFIG).is_file():
            raise UserError(
                f"--choose_thresholds stores them in {CONFIG} of the model, and '{folder}' is not "
                "a folder with one; give --model RUN_FOLDER"
            )
        self.folder = folder
        self.scores: ThresholdScores | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the thresholds."""
        assert isinstance(pl_module, SegmentationTask)
        search = ThresholdSearch(pl_module.classes)
        for batch in _validation_batches(trainer):
            _add(search, trainer, pl_module, batch)
        for matrix, counts in _of_others(trainer, (search.matrix, search.counts)):
            search.merge(matrix, counts)
        self.scores = ThresholdScores(search)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch before and after."""
        assert isinstance(pl_module, SegmentationTask)
        assert self.scores is not None
        _add(self.scores, trainer, pl_module, batch)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files."""
        assert isinstance(pl_module, SegmentationTask)
        assert self.scores is not None
        for before, after in _of_others(trainer, (self.scores.before, self.scores.after)):
            self.scores.before += before
            self.scores.after += after
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        about = about_scores(trainer, pl_module, "test", pl_module.model)
        about["chosen_on"] = about_scores(trainer, pl_module, "val", pl_module.model).get("data")
        write_json(folder_of(trainer) / "thresholds.json", self.scores.to_dict() | {"about": about})
        content = parse_json((self.folder / CONFIG).read_bytes())
        chosen = self.scores.search.thresholds()
        write_json(self.folder / CONFIG, {**content, "thresholds": chosen})

    def sentences(self, data: SegmentationData) -> list[str]:
        """What to print below the table: mIoU, where they are stored, and a warning."""
        assert self.scores is not None
        lines = [
            self.scores.sentence(),
            f"thresholds stored in '{self.folder / CONFIG}'; scenewise predict --threshold chosen "
            "uses them",
        ]
        if data.test_split == "val":
            lines.append(
                "warning: they were chosen on the images that are scored here, so the scores after "
                "are too good; --data.test_split test scores others"
            )
        return lines


def _add(
    counts: ThresholdSearch | ThresholdScores, trainer: Trainer, task: SegmentationTask, batch: Any
) -> None:
    images, masks = (batch[name].to(task.device) for name in ("image", "mask"))
    with trainer.precision_plugin.test_step_context():
        probabilities = task.probabilities_of(images)
    counts.add(probabilities, masks)


def _validation_batches(trainer: Trainer) -> Iterator[Any]:
    """The batches of this process, as many as ``--trainer.limit_val_batches`` allows."""
    data = getattr(trainer, "datamodule", None)
    assert isinstance(data, SegmentationData)
    loader, limit = data.val_dataloader(), trainer.limit_val_batches
    count = limit if isinstance(limit, int) else int(limit * len(loader))
    return islice(loader, count)


def _of_others(trainer: Trainer, counts: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The counts of the other processes."""
    if trainer.world_size > 1:
        shares: list[Any] = [None] * trainer.world_size
        dist.all_gather_object(shares, counts)
        yield from (share for rank, share in enumerate(shares) if rank != trainer.global_rank)
