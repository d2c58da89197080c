"""The cheap experiment on context: networks trained in the same way on generated scenes."""

import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import TQDMProgressBar

from scenewise.data.module import SegmentationData
from scenewise.models.segmenter import Segmenter
from scenewise.training.metrics.confusion import mean_iou, pixel_accuracy
from scenewise.training.task import SegmentationTask
from scenewise.training.trainer import build_trainer, quiet

BATCH = 8
TEST_SCENES = 64


@dataclass
class Curve:
    """The course of a training: (step, value) pairs."""

    loss: list[tuple[int, float]] = field(default_factory=list)
    context_iou: list[tuple[int, float]] = field(default_factory=list)


@dataclass
class Result:
    """One network after its training.

    Attributes:
        network: its name.
        model: trained, in evaluation mode.
        miou, context_iou, accuracy: on ``TEST_SCENES`` scenes that training never saw; the context
            IoU is the mean over the classes that only far context distinguishes.
        seconds: of training, validations included.
        parameters: number of learned parameters.
        curve: loss of each step, scores at each validation.
    """

    network: str
    model: Segmenter
    miou: float
    context_iou: float
    accuracy: float
    seconds: float
    parameters: int
    curve: Curve


def train_on_scenes(
    network: str,
    *,
    steps: int = 250,
    size: tuple[int, int] = (64, 192),
    seed: int = 0,
    lr: float = 3e-3,
    progress: bool = True,
    **head: Any,
) -> Result:
    """Train ``network`` on the tiny backbone: AdamW, ``steps`` batches of 8 fresh scenes.

    Every network gets the same scenes in the same order and is tested on the same unseen ones.

    Args:
        network: see :func:`scenewise.list_models`.
        steps: of the optimiser.
        size: height and width of the scenes.
        seed: of the scenes and of the initial weights.
        lr: learning rate of AdamW, for backbone and head.
        progress: show a progress bar.
        **head: options of the head.

    Raises:
        UserError: an unknown network, or a size that cannot be drawn.
    """
    seed_everything(seed, verbose=False)
    data = scenes_data(steps, size, seed)
    task = SegmentationTask(
        data.classes,
        network=network,
        backbone="tiny",
        pretrained=False,
        head=head or None,
        optimizer="adamw",
        lr=lr,
        head_multiplier=1.0,  # AdamW needs no larger rate for the head
        warmup=0,
        loss="cross_entropy",
        class_weights="even",
    )
    recorder = _Recorder()
    bar = [_Bar(network)] if progress else []
    with tempfile.TemporaryDirectory() as folder, quiet():
        trainer = build_trainer(
            task,
            data,
            max_steps=steps,
            val_check_interval=max(1, steps // 5),  # five points of the curve
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=progress,
            callbacks=[recorder, *bar],
            default_root_dir=folder,
        )
        start = time.perf_counter()
        trainer.fit(task, datamodule=data)
        seconds = time.perf_counter() - start
    return _result(network, task, recorder.curve, seconds, data)


def scenes_data(steps: int, size: tuple[int, int], seed: int) -> SegmentationData:
    """Fresh scenes for ``steps`` steps, and the unseen ones of the test."""
    return SegmentationData(
        format="scenes",
        crop_size=size,
        batch_size=BATCH,
        eval_batch_size=BATCH,
        num_workers=0,  # scenes are drawn faster than workers start
        scale=(1.0, 1.0),  # scaling and flip would cut the context away
        flip=False,
        photometric=False,
        scenes_train=steps * BATCH,  # each scene is seen once
        scenes_val=TEST_SCENES,
        scenes_size=size,
        seed=seed,
    )


def _result(
    network: str, task: SegmentationTask, curve: Curve, seconds: float, data: SegmentationData
) -> Result:
    assert task.matrix is not None
    return Result(
        network=network,
        model=task.model.eval(),
        miou=mean_iou(task.matrix),
        context_iou=mean_iou(task.matrix, data.context_classes),
        accuracy=pixel_accuracy(task.matrix),
        seconds=seconds,
        parameters=sum(p.numel() for p in task.model.parameters()),
        curve=curve,
    )


class _Recorder(Callback):
    """Keep the loss of each step and the scores of each validation."""

    def __init__(self) -> None:
        self.curve = Curve()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.curve.loss.append((trainer.global_step, float(outputs["loss"])))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        score = float(trainer.callback_metrics["val/context_iou"])
        self.curve.context_iou.append((trainer.global_step, score))


class _Bar(TQDMProgressBar):
    """A progress bar that names the network."""

    def __init__(self, network: str) -> None:
        super().__init__(refresh_rate=5)
        self.network = network

    def init_train_tqdm(self) -> Any:
        bar = super().init_train_tqdm()
        bar.set_description(self.network)
        return bar
