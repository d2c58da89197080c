"""``FeatureCache``: the features of a frozen backbone, computed once before the first step."""

import hashlib
import inspect
import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from scenewise._version import __version__
from scenewise.data.cached_views import ViewFormat, outdated, views_within, write_views
from scenewise.data.datasets import PairedDataset, SegmentationDataset
from scenewise.data.module import SegmentationData
from scenewise.data.shards import ShardSet
from scenewise.errors import UserError
from scenewise.models.feature_maps import used_maps
from scenewise.models.fingerprint import model_fingerprint
from scenewise.models.segmenter import Segmenter
from scenewise.training.callbacks.progress import duration
from scenewise.training.task import SegmentationTask

_MARGIN = 2**28  # bytes of the disk that stay free, for checkpoints
# of no influence on a view, or in the fingerprint by what they give
_NOT_VIEWS = {"root", "batch_size", "eval_batch_size", "num_workers", "shuffle_buffer", "splits"}
_NOT_VIEWS |= {"test_split", "scenes_val", "shown", "cache_features"}


class FeatureCache(Callback):
    """Write the features of augmented training images to disk, and train on them.

    They are computed as the training would compute them, in its precision and on its device, and
    deleted when the training has ended; an interrupted one keeps them, and uses them when it is
    resumed if nothing that they depend on has changed.

    Args:
        folder: of the features; it appears whole or not at all.
        dtype: in the file, "float16" or "float32".
    """

    def __init__(self, folder: Path, dtype: str = "float16") -> None:
        self.folder = folder
        self.dtype = dtype

    @torch.no_grad()
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the features, after computing them where they do not exist or are outdated."""
        task, data = pl_module, getattr(trainer, "datamodule", None)
        assert isinstance(task, SegmentationTask)
        assert isinstance(data, SegmentationData)
        task.refuse_frozen_random()
        refuse_changing_backbone(task.model)
        form = self._format(trainer, task, data)
        images = len(data.dataset("train"))
        allowed = views_within(data.cache_features or 1, images, form.record.itemsize)
        views = min(allowed, _epochs(trainer))
        made_from = {"views": str(views), "format": str(form), **_made_from(trainer, task, data)}
        changed = outdated(self.folder, made_from)
        if changed:
            differ = "differs" if len(changed) == 1 else "differ"
            print(f"cached features are computed again: {', '.join(changed)} {differ}")
        if changed == []:
            print(f"cached features of '{self.folder}' are used again")
        else:
            self._write(trainer, task, data, form, views, made_from)
        data.cached_views.open(self.folder)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Delete the features."""
        data = getattr(trainer, "datamodule", None)
        assert isinstance(data, SegmentationData)
        data.cached_views.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _format(
        self, trainer: Trainer, task: SegmentationTask, data: SegmentationData
    ) -> ViewFormat:
        """What a view holds, from the first one."""
        batch = next(iter(data.view_loader(1)))
        features = _features(trainer, task, batch["image"])
        return ViewFormat(
            maps=[list(x.shape[1:]) for x in features],
            used=used_maps(task.model, features),
            mask=list(batch["mask"].shape[1:]),
            dtype=str(features[-1].dtype).removeprefix("torch."),
            stored=self.dtype,
        )

    def _write(
        self,
        trainer: Trainer,
        task: SegmentationTask,
        data: SegmentationData,
        form: ViewFormat,
        views: int,
        made_from: dict[str, str],
    ) -> None:
        images = len(data.dataset("train"))
        size = views * images * form.record.itemsize
        partial = self.folder.with_name(f".{self.folder.name}.partial")
        for old in (self.folder, partial):
            shutil.rmtree(old, ignore_errors=True)
        free = shutil.disk_usage(_existing(self.folder)).free
        print(
            f"features of {views} view{'s' * (views > 1)} of {images} images: "
            f"{size / 2**30:.2f} GiB in '{self.folder}', deleted after the training", flush=True
        )  # fmt: skip
        if size + _MARGIN > free:
            raise UserError(
                f"--data.cache_features needs {size / 2**30:.2f} GiB in '{self.folder}', but only "
                f"{free / 2**30:.2f} are free; give fewer views, or a --trainer.default_root_dir "
                "on another disk"
            )
        start = time.monotonic()

        def batches() -> Iterator[tuple[Sequence[Tensor], Tensor]]:
            for batch in data.view_loader(views):
                yield _features(trainer, task, batch["image"]), batch["mask"]

        try:
            write_views(partial, form, batches(), views=views, made_from=made_from)
            partial.replace(self.folder)
        finally:  # also after Ctrl-C
            shutil.rmtree(partial, ignore_errors=True)
        print(f"features computed in {duration(time.monotonic() - start)}", flush=True)


def refuse_cache(
    task: SegmentationTask, data: SegmentationData, options: Mapping[str, Any], processes: int
) -> None:
    """Refuse ``--data.cache_features`` where features change, or cannot be kept.

    Raises:
        UserError: the backbone is not frozen, several processes, a stream of shards, or a trial of
            one batch.
    """
    refuse_changing_backbone(task.model)
    if options["fast_dev_run"]:
        raise UserError(
            "--trainer.fast_dev_run tries single batches, for which no features are kept; leave "
            "--data.cache_features out"
        )
    if processes > 1:
        raise UserError(
            f"--data.cache_features works in one process, but there are {processes}; give "
            "--trainer.devices 1, or leave it out"
        )
    if isinstance(data.dataset("train"), ShardSet):
        raise UserError(
            "--data.cache_features reads images in any order, which a stream of shards cannot; "
            "leave it out, or train on the folder"
        )


def refuse_changing_backbone(model: Segmenter) -> None:
    """Refuse a backbone that is trained, or whose batch norms or dropout are in training mode."""
    trained = any(parameter.requires_grad for parameter in model.backbone.parameters())
    if trained or any(module.training for module in model.backbone.modules()):
        raise UserError(
            "--data.cache_features needs a backbone that does not change; give --model.freeze "
            "backbone"
        )


def _features(trainer: Trainer, task: SegmentationTask, images: Tensor) -> list[Tensor]:
    """The feature maps of a batch, in the precision of the training."""
    with trainer.precision_plugin.forward_context():
        return task.features(images.to(task.device))


def _epochs(trainer: Trainer) -> int:
    """How many epochs the training has: more views would not be read."""
    steps = trainer.estimated_stepping_batches
    batches = trainer.num_training_batches
    if math.isinf(steps) or math.isinf(batches):
        return trainer.max_epochs or 1
    return max(1, math.ceil(steps / math.ceil(batches / trainer.accumulate_grad_batches)))


def _existing(folder: Path) -> Path:
    """The nearest folder above that exists."""
    return next(parent for parent in folder.parents if parent.is_dir())


def _made_from(trainer: Trainer, task: SegmentationTask, data: SegmentationData) -> dict[str, str]:
    """All that the features depend on."""
    model, options = task.model, inspect.signature(SegmentationData).parameters.keys() - _NOT_VIEWS
    return {
        "version": f"{__version__}, torch {torch.__version__}",
        "weights of the backbone": model_fingerprint(model.backbone),
        "backbone": hashlib.sha256(repr(model.backbone).encode()).hexdigest(),
        "preprocessing": json.dumps(model.preprocessing.to_dict()),
        "precision": f"{trainer.precision} on {task.device.type}",
        "images": _image_files(data.dataset("train")),
        **{f"--data.{name}": str(getattr(data, name)) for name in sorted(options)},
    }


def _image_files(dataset: SegmentationDataset) -> str:
    """A digest of the names of the images, and of sizes and times of their files."""
    digest = hashlib.sha256("\n".join(map(str, dataset.names)).encode())
    if isinstance(dataset, PairedDataset):
        for path in (*dataset.images, *dataset.masks):
            file = path.parent if path.parent.is_file() else path  # an entry of a file of labels
            state = file.stat()
            digest.update(f"{state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()
