"""The Lightning data module: datasets, transforms and samplers to batches."""

import math
import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch.utils.data import DataLoader

from scenewise.classes import Classes
from scenewise.data.cached_views import CachedViews, check_cache_size, collate_views
from scenewise.data.datasets import Sample, SegmentationDataset, Transform, collate
from scenewise.data.formats import FORMATS
from scenewise.data.formats.recognise import Source, check_format
from scenewise.data.mixing import Mix, Windows
from scenewise.data.sampler import (
    EvalSampler,
    SeededDataset,
    TrainLoader,
    TrainSampler,
    ViewSampler,
    sample_seed,
)
from scenewise.data.scenes import Scenes
from scenewise.data.shards import ShardSet
from scenewise.data.shards.stream import ShardStream
from scenewise.data.transforms import eval_transform, train_transform
from scenewise.data.two_views import TwoViews
from scenewise.data.unlabelled import UnlabelledImages, WithUnlabelled, collate_both
from scenewise.data.value_range import ImageFormat, image_format
from scenewise.errors import UserError

if TYPE_CHECKING:  # type checkers read literals alone, the command line's help lists the names
    Format = str
else:
    Format = Literal[("auto", "scenes", *FORMATS)]
_SPLITS = ("train", "val", "test")
_LARGEST_CROP = 768


class SegmentationData(LightningDataModule):
    """Batches for training, validation and testing.

    A batch is ``{"image": uint8 (B, 3, h, w), "mask": int64 (B, h, w), "name": list of str}``; the
    image has other channels or float32 where the data has. ``classes``, ``num_classes``,
    ``context_classes``, ``categories`` and ``images`` are known right after construction; arguments
    that are ``None`` are chosen from the data by ``setup("fit")``.

    Args:
        format: layout of the data: "auto" recognises it, "folder" is for your own images, "scenes"
            for generated ones, else the name of a published dataset; see ``docs/data.md``.
        root: folder of the dataset, for "stream" also a URL; not used by "scenes".
        labels: what the masks hold, where their class list does not say it: VALUE=CLASS,... with
            numbers, ranges or colours as values and "ignore" as a class; "stored" for class ids; a
            class list; or CLASS=CLASS to rename, merge or ignore classes.
        without_mask: whether images without a mask are refused, skipped, or all background.
        val_share: share of the images that are taken for validation if the data has no such split;
            images of one clip or folder stay together.
        val_seed: of the choice of these images.
        unlabelled: folder of images without labels of the same kind; with each training image one
            of them is drawn, and the network learns what its average predicts on it with confidence
            (semi-supervised). Copies of validation and test images are left out.
        splits: a folder with train.txt and val.txt of such a choice, as a run folder has it; or
            "lists" or "folders", which of the two divides the images if they differ.
        crop_size: side, or (height, width), of the training crops in pixels; by default the size
            of a typical image, at most 768.
        batch_size: training images a step and process; by default 2 to 8, by crop size and device.
        eval_batch_size: images a step in validation and test; more than 1 needs equal sizes.
        num_workers: processes that prepare batches; by default one a core, at most 8, and none for
            a tiny dataset.
        scale: smallest and largest factor of random scaling; by default 0.5 to 2, and none for
            "scenes", whose context would be cut off.
        scale_step: distance between possible factors, counted from the smallest; 0 for any factor.
        base_size: the short side, or (short, long), that images are scaled to in proportion at
            factor 1; by default their own size.
        max_class_share: draw another crop, up to nine times, while more than this share of its
            labelled pixels belongs to one class; 1 accepts every crop, mmsegmentation uses 0.75.
        rare_windows: share of the training crops that contain a pixel of a rare class: a class of
            the image, drawn by the inverse of its pixels there.
        copy_paste: share of the training crops that get the pixels of one class of another image's
            crop, the class drawn likewise; not for "stream".
        mosaic: share of the training crops that are put together from crops of four images; not for
            "stream".
        flip: mirror half of the training images.
        photometric: change brightness, contrast, saturation and hue in training; by default yes
            for RGB, but not for "scenes", whose light varies already.
        rotate: rotate half of the training crops by up to so many degrees; the corners are ignored.
        blur: blur half of the training crops slightly.
        cache_features: with a frozen backbone, compute its features once for so many augmented
            views of each training image, or for as many as fit in a size such as 4GiB, keep them on
            disk, and train the head on them; not for "stream".
        test_split: the split that ``test`` scores; "val" where the test labels are not public.
        shuffle_buffer: images that each worker holds to draw from, for "stream" only.
        scenes_train: number of generated training scenes.
        scenes_val: number of generated validation scenes, and of test scenes.
        scenes_size: (height, width) of generated scenes in pixels.
        channels: which channels of the images to use, by index from 0; by default all but
            transparency.
        pages: "channels" if the pages of a TIFF are the channels of one image; else files of
            several pages are refused.
        value_range: for images of more than 8 bits, the values that become 0 and 1; by default the
            0.1 and 99.9 percentiles of a sample of the data.
        shown: three of the used channels that figures show as red, green and blue; by default the
            first three.
        seed: order of the training images, and which training scenes are generated; validation
            and test scenes are always the same.

    Raises:
        UserError: an argument is out of range, or no split under ``root`` can be opened.
    """

    def __init__(  # noqa: PLR0913 - the options of --data
        self,
        format: Format = "auto",
        root: str | None = None,
        labels: str | dict[str, str] | None = None,
        without_mask: Literal["refuse", "skip", "background"] = "refuse",
        val_share: float = 0.2,
        val_seed: int = 0,
        splits: str | None = None,
        unlabelled: str | None = None,
        crop_size: int | tuple[int, int] | None = None,
        batch_size: int | None = None,
        eval_batch_size: int = 1,
        num_workers: int | None = None,
        scale: tuple[float, float] | None = None,
        scale_step: float = 0.0,
        base_size: int | tuple[int, int] | None = None,
        max_class_share: float = 1.0,
        rare_windows: float = 0.0,
        copy_paste: float = 0.0,
        mosaic: float = 0.0,
        flip: bool = True,
        photometric: bool | None = None,
        rotate: float = 0.0,
        blur: bool = False,
        cache_features: int | str | None = None,
        test_split: Literal["train", "val", "test"] = "test",
        shuffle_buffer: int = 100,
        scenes_train: int = 1024,
        scenes_val: int = 64,
        scenes_size: tuple[int, int] = (64, 192),
        channels: list[int] | None = None,
        pages: Literal["channels"] | None = None,
        value_range: tuple[float, float] | None = None,
        shown: list[int] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.format = format
        self.root = root
        self.labels = labels
        self.without_mask = without_mask
        self.val_share = val_share
        self.val_seed = val_seed
        self.splits = splits
        self.unlabelled = unlabelled if unlabelled is None else str(unlabelled)  # a Path too
        self.crop_size = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.scale = scale or ((1.0, 1.0) if format == "scenes" else (0.5, 2.0))
        self.scale_step = scale_step
        self.base_size = base_size
        self.max_class_share = max_class_share
        self.rare_windows = rare_windows
        self.copy_paste = copy_paste
        self.mosaic = mosaic
        self.flip = flip
        self.photometric = photometric
        self.rotate = rotate
        self.blur = blur
        self.cache_features = cache_features
        self.test_split = test_split
        self.shuffle_buffer = shuffle_buffer
        self.scenes_train = scenes_train
        self.scenes_val = scenes_val
        self.scenes_size = scenes_size
        self.channels = channels
        self.pages = pages
        self.value_range = value_range
        self.shown = shown
        self.seed = seed
        self._check_arguments()
        self.source = self._find_source()
        self._datasets: dict[str, SegmentationDataset] = {}
        self.without_labels: UnlabelledImages | None = None  # after setup("fit")
        self._images: ImageFormat | None = None
        self._views: CachedViews | None = None
        dataset = self._first_split()
        self.classes: Classes = dataset.classes
        self.num_classes = len(dataset.classes)
        self.context_classes = dataset.context_classes
        self.categories = dataset.categories

    def _check_arguments(self) -> None:
        low, high = self.scale
        batch_size = 1 if self.batch_size is None else self.batch_size
        counts = (batch_size, self.eval_batch_size, self.shuffle_buffer)
        smallest = min(*(self.crop_size or (1, 1)), *counts)
        if smallest < 1 or (self.num_workers or 0) < 0 or not 0 < low <= high < math.inf:
            raise UserError(
                f"crop_size {self.crop_size}, batch_size {self.batch_size}, eval_batch_size "
                f"{self.eval_batch_size}, num_workers {self.num_workers}, shuffle_buffer "
                f"{self.shuffle_buffer} and scale {self.scale} "
                "must be positive, and scale in ascending order; correct the one that is not"
            )
        sides = _short_and_long(self.base_size) or (1, 1)
        if not (
            0 < sides[0] <= sides[1] and 0 < self.max_class_share <= 1 and self.scale_step >= 0
        ):
            raise UserError(
                f"base_size {self.base_size}, max_class_share {self.max_class_share} or scale_step "
                f"{self.scale_step} is out of range; give (short, long) in pixels, a share from 0 "
                "to 1, and a step of 0 or more"
            )
        if self.cache_features is not None:
            check_cache_size(self.cache_features)
        for name in ("rare_windows", "copy_paste", "mosaic"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise UserError(f"{name} is {share} but must be a share from 0 to 1")

    @property
    def images(self) -> ImageFormat:
        """Channels, bits and values of the images, measured when first asked for.

        Raises:
            UserError: an option does not fit the images, or they differ.
        """
        if self._images is None:
            self._images = image_format(
                self._first_split(),
                self.channels,
                pages=self.pages is not None,
                value_range=self.value_range,
                shown=self.shown,
            )
            if self.photometric and not self._images.layout.rgb:
                raise UserError(
                    "--data.photometric true changes colours, but the images are not RGB; leave "
                    "it out"
                )
            for dataset in self._datasets.values():
                dataset.layout = self._images.layout
        return self._images

    def _find_source(self) -> Source | None:
        """What is under ``root``; None for generated scenes."""
        if self.format == "scenes":
            return None
        check_format(self.format)
        if self.root is None:
            raise UserError(f"format '{self.format}' needs a folder; give --data.root DIR")
        source = Source(
            self.root,
            self.format,
            labels=self.labels,
            without_mask=self.without_mask,
            val_share=self.val_share,
            val_seed=self.val_seed,
            splits=self.splits,
        )
        self.format = source.format
        return source

    def describe(self) -> str:
        """What the data was taken for and why, its classes, and the images of each split."""
        if self.source is None:
            return "generated scenes"
        self._first_split()
        return self.source.describe(self._datasets)

    def use_division(self, folder: Path, same: bool = True) -> None:
        """Divide the images by the lists in ``folder``, as an earlier run did.

        Nothing happens if the data has a validation split, or ``folder`` does not exist, or, unless
        the data must be the ``same``, if the lists are of other data.

        Raises:
            UserError: the lists name images that do not exist.
        """
        if self.source is not None and self.source.use_division(folder, same):
            self._datasets.clear()

    def _first_split(self) -> SegmentationDataset:
        """Any split that can be opened: a dataset may hold one split only."""
        errors = []
        for split in _SPLITS:
            try:
                return self.dataset(split)
            except UserError as error:
                errors.append(error)
        raise errors[0]

    def dataset(self, split: str) -> SegmentationDataset:
        """The dataset of one split; without random transforms before ``setup("fit")``."""
        if split not in self._datasets:
            dataset = self._open(split)
            if not len(dataset):
                raise UserError(
                    f"split '{split}' of '{self.root or self.format}' has no images; add some, or "
                    "correct what selects them"
                )
            self._check_same_classes(split, dataset.classes)
            self._datasets[split] = dataset
            if self._images is not None:
                self._datasets[split].layout = self._images.layout
        return self._datasets[split]

    def _check_same_classes(self, split: str, classes: Classes) -> None:
        """Raise a UserError if another split lists other classes, or in another order."""
        for other, dataset in self._datasets.items():
            if dataset.classes.names != classes.names:
                raise UserError(
                    f"'{self.root}' lists the classes {', '.join(dataset.classes.names)} for "
                    f"'{other}', but {', '.join(classes.names)} for '{split}'; give all splits the "
                    "same classes in the same order"
                )

    def _open(self, split: str) -> SegmentationDataset:
        if self.source is None:
            held_out = {"val": 2**31, "test": 2**31 + 1}  # seeds that no training uses
            length = self.scenes_val if split in held_out else self.scenes_train
            return Scenes(length, self.scenes_size, held_out.get(split, self.seed))
        return self.source.dataset(split, eval_transform())

    def setup(self, stage: str) -> None:
        """Open the splits of ``stage`` and choose the arguments that are ``None``.

        Raises:
            UserError: a split is missing, empty or incomplete.
        """
        needed = {"fit": ("train", "val"), "validate": ("val",), "test": (self.test_split,)}
        images = self.images
        for split in needed.get(stage, ()):
            self.dataset(split)
        if stage == "fit":
            train = self.dataset("train")
            self.crop_size = self.crop_size or _typical_size(train)
            self.batch_size = self.batch_size or _fitting_batch(self.crop_size)
            train.transform = self._train_transform(train, self.crop_size, images)
            if self.unlabelled is not None and self.without_labels is None:
                self.without_labels = self._find_unlabelled(self.unlabelled, images)

    def _find_unlabelled(self, folder: str, images: ImageFormat) -> UnlabelledImages:
        """The images without labels, compared with those of every split."""
        if isinstance(self.dataset("train"), ShardSet):
            raise UserError(
                "--unlabelled draws images beside labelled ones by index, which a stream of shards "
                "has not; leave it out, or train on the folder"
            )
        if self.cache_features is not None:
            raise UserError(
                "--unlabelled cannot be used with --data.cache_features, which keeps features of "
                "labelled images alone; leave one out"
            )
        labelled = {split: self.dataset(split) for split in ("train", "val")}
        with suppress(UserError):  # most datasets have no test split
            labelled["test"] = self.dataset("test")
        generated = self.source is None
        return UnlabelledImages(folder, images.layout, {} if generated else labelled)

    def train_samples(self) -> SegmentationDataset | WithUnlabelled:
        """The training images as the loader reads them: with unlabelled ones where there are any.

        After ``setup("fit")``.
        """
        train = self.dataset("train")
        if self.without_labels is None:
            return train
        assert self.crop_size is not None
        views = TwoViews(
            self.crop_size,
            self.scale,
            flip=self.flip,
            images=self.images,
            base=_short_and_long(self.base_size),
        )
        return WithUnlabelled(train, self.without_labels, views)

    def _train_transform(
        self, train: SegmentationDataset, size: tuple[int, int], images: ImageFormat
    ) -> Transform:
        """Random crops, mixed with those of other images where the options say so."""
        make = partial(
            train_transform,
            scale=self.scale,
            flip=self.flip,
            photometric=self.format != "scenes" if self.photometric is None else self.photometric,
            ignore_index=self.classes.ignore_index,
            rotate=self.rotate,
            blur=self.blur,
            images=images,
            step=self.scale_step,
            base=_short_and_long(self.base_size),
            max_share=self.max_class_share,
        )
        if not (self.copy_paste or self.mosaic):
            return make(size, rare=self.rare_windows)
        if isinstance(train, ShardSet):
            raise UserError(
                "--data.copy_paste and --data.mosaic read several images for a crop, which a "
                "stream of shards cannot; leave them out, or train on the folder"
            )
        if min(size) < 2:
            raise UserError(f"mosaic and copy_paste need a crop_size of 2 or more, not {size}")
        windows = Windows(make, self.rare_windows)
        return Mix(windows, size, train, copy_paste=self.copy_paste, mosaic=self.mosaic)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Random crops; order and random changes depend on ``seed``, epoch and index alone."""
        train, (world, rank) = self.dataset("train"), self._processes()
        if isinstance(train, ShardSet):
            return self._stream(train, self.batch_size or 1, self.shuffle_buffer)
        batch = self.batch_size or 1
        if self.cache_features is None:
            samples: Any = SeededDataset(self.train_samples())
            sampler = TrainSampler(train, world, rank, self.seed)
            together = collate if self.without_labels is None else collate_both
            options = self._loader_options(train) | {"collate_fn": together}
        else:
            samples = self.cached_views
            sampler = ViewSampler(samples, world, rank, self.seed)
            options = self._loader_options(train) | {"collate_fn": collate_views}
            options |= {"num_workers": 0, "persistent_workers": False}  # they would copy in vain
        drop_last = len(sampler) > batch  # keep an incomplete batch if it is the only one
        return TrainLoader(
            samples, batch, sampler, self._batches_done, drop_last=drop_last, **options
        )

    @property
    def cached_views(self) -> CachedViews:
        """What a training with ``cache_features`` reads, once it is opened."""
        if self._views is None:
            self._views = CachedViews(self.dataset("train").names)
        return self._views

    def view_loader(self, views: int) -> DataLoader[Sample]:
        """Each training image in ``views`` augmented views, those of the first epochs, in order."""
        train = self.dataset("train")
        draws = [
            (index, sample_seed(self.seed, view, index))
            for view in range(views)
            for index in range(len(train))
        ]
        options = self._loader_options(train)
        return DataLoader(
            SeededDataset(train), self.batch_size, sampler=draws, collate_fn=collate, **options
        )

    def train_workers(self) -> int:
        """The processes that prepare training batches."""
        workers: int = self._loader_options(self.dataset("train"))["num_workers"]
        return workers

    def val_dataloader(self) -> DataLoader[Sample]:
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Sample]:
        return self._eval_loader(self.test_split)

    def _eval_loader(self, split: str) -> DataLoader[Sample]:
        dataset, (world, rank) = self.dataset(split), self._processes()
        if len(dataset) < world:
            raise UserError(
                f"split '{split}' has {len(dataset)} images for {world} processes; use at most "
                f"{len(dataset)}"
            )
        if world > 1 and self._shares_weights() and len(dataset) % world:
            raise UserError(
                f"split '{split}' has {len(dataset)} images, which cannot be divided equally among "
                f"{world} processes that share weights, which would deadlock; give a number of "
                "processes that divides it, or --trainer.strategy ddp"
            )
        if isinstance(dataset, ShardSet):
            return self._stream(dataset, self.eval_batch_size)
        return DataLoader(
            dataset,
            self.eval_batch_size,
            sampler=EvalSampler(dataset, world, rank),
            collate_fn=collate,
            **self._loader_options(dataset),
        )

    def _batches_done(self) -> int:
        """How many batches of this epoch have been trained on."""
        return self.trainer.fit_loop.batch_idx + 1 if self.trainer and self.trainer.training else 0

    def _stream(self, dataset: ShardSet, batch_size: int, buffer: int = 0) -> DataLoader[Any]:
        world, rank = self._processes()
        options = self._loader_options(dataset)
        stream = ShardStream(
            dataset,
            batch_size,
            workers=options["num_workers"],
            world=world,
            rank=rank,
            buffer=buffer,
            seed=self.seed,
            epoch=self.trainer.current_epoch if self.trainer else 0,
        )
        return DataLoader(stream, batch_size=None, **options)  # the stream yields batches

    def _loader_options(self, dataset: SegmentationDataset) -> dict[str, Any]:
        workers = _workers(len(dataset)) if self.num_workers is None else self.num_workers
        world, rank = self._processes()
        return {
            "num_workers": workers,
            "pin_memory": torch.cuda.is_available(),
            "persistent_workers": workers > 0,
            "generator": torch.Generator().manual_seed(self.seed * world + rank),
        }

    def _shares_weights(self) -> bool:
        """Whether a process needs all others for each forward pass (FSDP)."""
        strategy = getattr(self.trainer, "strategy", None)
        return isinstance(strategy, FSDPStrategy | ModelParallelStrategy)

    def _processes(self) -> tuple[int, int]:
        """The number of processes, and the rank of this one."""
        if self.trainer is None:
            return 1, 0
        return self.trainer.world_size, self.trainer.global_rank


def _typical_size(dataset: SegmentationDataset) -> tuple[int, int]:
    """The median (height, width) of up to five images, rounded down, up to 768."""
    step = math.ceil(len(dataset) / 5)  # five images, evenly spread
    sizes = torch.tensor([dataset.read(i)[1].shape for i in range(0, len(dataset), step)])
    height, width = sizes.median(dim=0).values.tolist()
    return _rounded(height), _rounded(width)


def _short_and_long(base: int | tuple[int, int] | None) -> tuple[float, float] | None:
    return (base, math.inf) if isinstance(base, int) else base


def _rounded(length: int) -> int:
    """A multiple of 32, the largest output stride; of 8 for small images."""
    unit = 32 if length >= 256 else 8  # loses an eighth at most
    return min(_LARGEST_CROP, max(8, length // unit * unit))


def _fitting_batch(crop_size: tuple[int, int]) -> int:
    """2 to 8 images: 2**16 pixels for each GiB of GPU memory, 3 * 2**18 without a GPU."""
    pixels = 3 * 2**18  # four windows of 352 x 480
    if torch.cuda.is_available():
        pixels = torch.cuda.get_device_properties(0).total_memory // 2**14  # 2**16 a GiB
    return min(8, max(2, pixels // (crop_size[0] * crop_size[1])))


def _workers(images: int) -> int:
    """One for each core that this process may use, at most 8; none for a tiny dataset."""
    if images < 32:
        return 0
    affinity = getattr(os, "sched_getaffinity", None)
    return min(8, len(affinity(0)) if affinity else os.cpu_count() or 1)
