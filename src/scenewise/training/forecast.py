"""The forecast of a training: time and memory, with validation and data loading.

One small training step is timed on the device and scaled by FLOPs, so the forecast knows how fast
this network runs there; what it cannot know is replaced by what was measured after 20 batches.
"""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from lightning.pytorch import Trainer
from PIL import Image

from scenewise.data.cached_views import ViewFormat, views_within
from scenewise.data.datasets import PairedDataset, SegmentationDataset
from scenewise.data.module import SegmentationData
from scenewise.data.unlabelled import WithUnlabelled
from scenewise.inference.sliding_window import Size, two_thirds
from scenewise.memory import resident_bytes
from scenewise.models.cost import estimate, product_rate, step_seconds
from scenewise.models.feature_maps import heads_alone, used_maps
from scenewise.models.segmenter import Segmenter
from scenewise.training.callbacks.progress import duration

_PROBE = 160  # side of the crops of the step that is timed
_BATCH_SECONDS = 0.005  # of Lightning and the optimiser, for each batch
_SCORE_SECONDS = 1e-8  # to upsample, compare and count one logit of a validation image
_WORKER_BYTES = 100 * 2**20  # what a worker does not share with the main process
_SAVE_SECONDS = 0.2  # of the checkpoints and scores after each validation
_FIGURE_SECONDS = 3.0  # of the first figures of a run, with the import of matplotlib
_SIZES = 64  # images whose size is looked at


@dataclass(frozen=True)
class Plan:
    """How much a training does.

    Attributes:
        batches: of one process in the whole training.
        validations: how often the validation images are scored.
        images: validation images of one process.
        mixed: whether in 16-bit mixed precision.
    """

    batches: int
    validations: float
    images: int
    mixed: bool


@dataclass(frozen=True)
class Forecast:
    """Estimated cost of a training.

    Attributes:
        training: seconds of the training steps.
        validation: seconds of all validations.
        step_bytes: memory of a training step on the device.
        score_bytes: memory of scoring the largest validation image on the device.
        loader_bytes: memory of the workers and of the batches that wait.
        host_bytes: what the process has taken already, where it shares the device's memory.
        largest: height and width of the largest validation image.
        window: side of the windows of a validation; None for whole images.
        caching: seconds to compute features before the first step.
    """

    training: float
    validation: float
    step_bytes: int
    score_bytes: int
    loader_bytes: int
    host_bytes: int
    largest: Size
    window: int | None = None
    caching: float = 0.0

    @property
    def new_bytes(self) -> int:
        """Memory that the device must still give."""
        shared = self.loader_bytes if self.host_bytes else 0  # else it is the host's
        return max(self.step_bytes, self.score_bytes) + shared

    @property
    def bytes(self) -> int:
        """Memory of the whole training, that of the process included."""
        return self.new_bytes + self.host_bytes

    def sentence(self) -> str:
        """Both costs, and what they consist of."""
        total = self.training + self.validation + self.caching
        share = 100 * self.validation / total if total > 0 else 0.0
        return (
            f"forecast: {self.bytes / 2**30:.1f} GiB of memory (a training step "
            f"{self.step_bytes / 2**30:.1f}, validation at {self.largest[0]} x {self.largest[1]} "
            f"{self.score_bytes / 2**30:.1f}, data loading {self.loader_bytes / 2**30:.1f}), "
            f"{duration(total)} ({share:.0f} % of it validation)"
        )


class Forecaster:
    """Estimates a training, with validation on whole images or in windows.

    Args:
        model: on the CPU, as it will be trained.
        data: after ``setup("fit")``.
        device: where it will be trained.
        plan: how much it does.
    """

    def __init__(
        self, model: Segmenter, data: SegmentationData, device: torch.device, plan: Plan
    ) -> None:
        assert data.crop_size is not None
        assert data.batch_size is not None
        self.model, self.data, self.device, self.plan = model, data, device, plan
        more = data.without_labels is not None  # a second image of the student, one of the teacher
        self.crop, self.batch = data.crop_size, data.batch_size * (2 if more else 1)
        self.teacher = estimate(model, self.crop, data.batch_size).flops if more else 0
        self.trained = model if data.cache_features is None else heads_alone(model, self.crop)
        self.step = estimate(self.trained, self.crop, self.batch, training=True, mixed=plan.mixed)
        self.sizes = image_sizes(data.dataset("val"))
        self.largest = max(self.sizes, key=math.prod)
        self.mean_pixels = sum(map(math.prod, self.sizes)) / len(self.sizes)
        self._scores: dict[int | None, tuple[float, int]] = {}  # of each window

    def fits(self, model: Segmenter, data: SegmentationData, mixed: bool) -> bool:
        """Whether these estimates are those of a training of ``model`` with ``data``, if longer."""
        sizes = (data.crop_size, data.batch_size, mixed)
        own = (self.crop, self.data.batch_size, self.plan.mixed)
        return self.model is model and self.data is data and sizes == own

    @cached_property
    def seconds_per_flop(self) -> float:
        """From one small training step on the device."""
        size = (min(_PROBE, self.crop[0]), min(_PROBE, self.crop[1]))
        size = size if self.trained is self.model else self.crop  # its maps have one size
        whole = size == tuple(self.crop) and self.batch == 2
        try:
            cost = self.step if whole else estimate(self.trained, size, 2, training=True)
            seconds = step_seconds(self.trained, size, 2, self.device, mixed=self.plan.mixed)
        except Exception:  # custom parts, or no memory for a copy: half the rate of products
            return 2 / product_rate(self.device)
        return seconds / max(1, cost.flops)

    def time_whole_step(self) -> None:
        """Time steps of the real size, on which the forecasts are then based."""
        seconds = step_seconds(
            self.trained, self.crop, self.batch, self.device, mixed=self.plan.mixed
        )
        self.seconds_per_flop = seconds / max(1, self.step.flops)

    def forecast(self, window: int | None = None) -> Forecast:
        """The costs with validation on whole images, or in windows of side ``window``."""
        workers, train = self.data.train_workers(), self.data.train_samples()
        sample = sample_seconds(train)
        compute = (self.step.flops + self.teacher) * self.seconds_per_flop + _BATCH_SECONDS
        cached = self.data.cache_features is not None
        loading = 0.0 if cached else (self.data.batch_size or 1) * sample
        if not workers:
            batch = compute + loading
        elif self.device.type == "cpu":  # workers take the cores of the training
            batch = compute + loading / (os.cpu_count() or 1)
        else:
            batch = max(compute, loading / workers)
        flops, memory = self._scoring(window)
        scored = flops * self.seconds_per_flop
        scored += _SCORE_SECONDS * len(self.model.classes) * self.mean_pixels
        reading = sample / max(1, workers)
        each = self.plan.images * (scored + reading) + _SAVE_SECONDS
        figures = _FIGURE_SECONDS if self.plan.validations else 0.0
        return Forecast(
            training=self.plan.batches * batch,
            validation=self.plan.validations * each + figures,
            step_bytes=self.step.bytes,
            score_bytes=memory,
            loader_bytes=self._loader_bytes(workers),
            host_bytes=resident_bytes() if self.device.type == "cpu" else 0,
            largest=self.largest,
            window=window,
            caching=self.caching_seconds(self.plan.batches * self.batch / len(train)),
        )

    def caching_seconds(self, epochs: float) -> float:
        """Seconds to compute the features of ``--data.cache_features`` for so many epochs."""
        value, images = self.data.cache_features, len(self.data.dataset("train"))
        if value is None:
            return 0.0
        size = self._view_bytes if isinstance(value, str) else 0  # a number needs none
        views = min(views_within(value, images, size), math.ceil(epochs))
        return views * images * self._view_seconds

    @cached_property
    def _view_bytes(self) -> int:
        """Of one view on the disk."""
        channels = self.model.preprocessing.in_channels
        maps = self.trained.features(torch.zeros(2, channels, *self.crop))
        shapes, used = [list(x.shape[1:]) for x in maps], used_maps(self.model, maps)
        return ViewFormat(shapes, used, list(self.crop), "float32").record.itemsize

    @cached_property
    def _view_seconds(self) -> float:
        """To read an image and to compute its features."""
        sample = sample_seconds(self.data.dataset("train")) / max(1, self.data.train_workers())
        flops = estimate(self.model, self.crop, mixed=self.plan.mixed).flops
        return flops * self.seconds_per_flop + sample

    def choose_window(self, free: int | None) -> int | None:
        """The side of the crops where validation needs windows; None where whole images do.

        That is where whole images would take more arithmetic than the training or more memory than
        is free, and windows take less. Only FLOPs decide, so all processes choose the same.
        """
        side = max(self.crop)
        if max(self.largest) <= side:
            return None
        whole, whole_bytes = self._scoring(None)
        scored = self.plan.validations * self.plan.images * whole
        slow = scored > self.plan.batches * self.step.flops
        large = free is not None and whole_bytes > free
        if not slow and not large:
            return None  # the cost in windows takes a second to estimate
        cut, cut_bytes = self._scoring(side)
        return side if (slow and cut < whole) or (large and cut_bytes < whole_bytes) else None

    def _scoring(self, window: int | None) -> tuple[float, int]:
        """FLOPs for a validation image of mean size, and bytes for the largest."""
        if window not in self._scores:
            self._scores[window] = self._score(window)
        return self._scores[window]

    def _score(self, window: int | None) -> tuple[float, int]:
        each = self.data.eval_batch_size
        view = self.largest if window is None else _cut(self.largest, window)
        cost = estimate(self.model, view, each)
        flops = cost.flops * window_count(self.largest, window) / each
        flops *= self.mean_pixels / math.prod(self.largest)
        logits = 4 * len(self.model.classes) * math.prod(self.largest) * each
        return flops, cost.bytes + logits  # a second copy, for the loss or for the sum of windows

    def _loader_bytes(self, workers: int) -> int:
        crop = math.prod(self.crop) * (3 + 8)  # uint8 image, int64 mask
        decoded = math.prod(self.largest) * (3 + 3 * 4)  # uint8, then float32 while it is changed
        batches = 1 + 2 * workers  # each worker prepares two
        return batches * self.batch * crop + max(1, workers) * decoded + workers * _WORKER_BYTES


def plan_of(trainer: Trainer, data: SegmentationData, batches: int, mixed: bool) -> Plan:
    """How much the Trainer is going to do.

    Args:
        trainer: with its limits.
        data: after ``setup("fit")``.
        batches: in an epoch of one process.
        mixed: whether in 16-bit mixed precision.
    """
    batches = limited(batches, trainer.limit_train_batches)
    epochs = trainer.max_epochs if (trainer.max_epochs or -1) > 0 else None
    total = math.inf if epochs is None else epochs * batches
    if trainer.max_steps > 0:
        total = min(total, trainer.max_steps * trainer.accumulate_grad_batches)
    total = batches if math.isinf(total) else total  # no end is known: one epoch
    images = math.ceil(len(data.dataset("val")) / trainer.world_size)
    each = data.eval_batch_size
    images = min(images, limited(math.ceil(images / each), trainer.limit_val_batches) * each)
    # Lightning leaves the attribute out where the interval is a time: once in an epoch then
    interval = getattr(trainer, "val_check_interval", None)
    every = trainer.check_val_every_n_epoch
    if every is None:
        validations = total / float(interval or total)
    else:
        part = interval / batches if isinstance(interval, int) else (interval or 1.0)
        validations = total / max(1, batches) / every / max(part, 1e-9)
    return Plan(int(total), validations, images, mixed)


def limited(batches: int, limit: float | None) -> int:
    """Batches under a limit of Lightning: a number, or a share.

    >>> limited(40, 3), limited(40, 0.5), limited(40, 1.0), limited(40, None)
    (3, 20, 40, 40)
    """
    if limit is None:
        return batches
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def window_count(size: Size, window: int | None) -> int:
    """Windows of a side, at strides of two thirds of it, that cover an image of ``size``.

    >>> window_count((600, 600), None), window_count((600, 600), 300), window_count((200, 900), 300)
    (1, 9, 4)
    """
    if window is None:
        return 1
    cut = _cut(size, window)
    strides = two_thirds((window, window))
    steps = [math.ceil((s - c) / t) + 1 for s, c, t in zip(size, cut, strides, strict=True)]
    return math.prod(steps)


def _cut(size: Size, window: int) -> Size:
    return min(size[0], window), min(size[1], window)


def image_sizes(dataset: SegmentationDataset) -> Sequence[Size]:
    """(height, width) of up to 64 images, spread evenly; read from the headers of files."""
    step = math.ceil(len(dataset) / _SIZES)
    if isinstance(dataset, PairedDataset):
        try:
            return [_header_size(str(path)) for path in dataset.images[::step]]
        except OSError:
            pass  # a format that Pillow does not read
    few = range(0, len(dataset), math.ceil(len(dataset) / 4))
    return [(shape[1], shape[2]) for shape in (dataset.read(i)[0].shape for i in few)]


def _header_size(path: str) -> Size:
    with Image.open(path) as image:
        return image.height, image.width


def sample_seconds(dataset: SegmentationDataset | WithUnlabelled, count: int = 2) -> float:
    """Seconds to read and transform one image; the random state is left as it was."""
    count = min(count, len(dataset))
    with torch.random.fork_rng(devices=[]):
        begin = time.perf_counter()
        for index in range(count):
            dataset[index]
    return (time.perf_counter() - begin) / count
