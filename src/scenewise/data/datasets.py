"""Dataset classes: the base of every dataset, and your own images in folders."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from scenewise.classes import Classes
from scenewise.data.images import image_kind, orientation_of, read_image, read_mask, turned
from scenewise.data.layout import Layout, common_layout
from scenewise.data.tiff import Kind
from scenewise.errors import UserError

_INSPECTED = 64  # headers that are read to find the layout of a dataset
Root = str | os.PathLike[str]
Transform = Callable[[tv_tensors.Image, tv_tensors.Mask], tuple[tv_tensors.Image, tv_tensors.Mask]]
Progress = Callable[
    [Iterable[Any], int, str], Iterable[Any]
]  # (items, count, description) -> items


class Sample(TypedDict):
    """One image (C, H, W), of 8-bit RGB (3, H, W) and uint8, and its mask (H, W), uint8."""

    image: Tensor
    mask: Tensor
    name: str


class SegmentationDataset(Dataset[Sample]):
    """Base of all datasets: names, classes, and ``read(i)``, which a subclass implements.

    ``dataset[i]`` is ``{"image", "mask", "name"}`` after the joint ``transform``. Masks hold class
    ids and ``classes.ignore_index``. ``context_classes`` are those that only distant context
    distinguishes; ``categories`` are named groups of classes that are scored too. ``classes_from``
    says where the names of the classes come from, and ``notes`` what a user should know of this
    split, such as files that are left out; a subclass sets them.

    Args:
        names: one name for each image.
        classes: the classes of the ids.
        transform: joint transform of image and mask; ``None`` for none.
    """

    classes_from: str = "the publisher"
    context_classes: ClassVar[tuple[int, ...]] = ()
    categories: ClassVar[Mapping[str, tuple[int, ...]]] = MappingProxyType({})

    def __init__(
        self, names: Sequence[str], classes: Classes, transform: Transform | None = None
    ) -> None:
        self.names = list(names)
        self.classes = classes
        self.transform = transform
        self._layout: Layout | None = None
        self.notes: list[str] = []

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (C, H, W) of :attr:`layout`, and mask (H, W), uint8, before the transform."""
        raise NotImplementedError

    def kinds(self, *, pages: bool = False) -> list[tuple[str, Kind]]:
        """Names and kinds of some images, spread evenly; none where all are 8-bit RGB."""
        return []

    @property
    def layout(self) -> Layout:
        """Channels and bits of all images: those that some images have, unless it was set."""
        if self._layout is None:
            self._layout = common_layout(self.kinds())
        return self._layout

    @layout.setter
    def layout(self, layout: Layout) -> None:
        self._layout = layout

    def select(self, indices: Sequence[int]) -> Self:
        """The same dataset with these images alone; a subclass with other lists extends it."""
        chosen = copy(self)
        chosen.names = [self.names[i] for i in indices]
        return chosen

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        return self.sample(self.names[index], *self.read(index))

    def sample(self, name: str, raw_image: Tensor, raw_mask: Tensor) -> Sample:
        """Image and mask as read, after the transform."""
        image, mask = tv_tensors.Image(raw_image), tv_tensors.Mask(raw_mask)
        if self.transform is not None:
            image, mask = self.transform(image, mask)
        return {"image": image, "mask": mask, "name": name}


class PairedDataset(SegmentationDataset):
    """Images in files, each with a mask in a file.

    A subclass whose mask files hold something else than class ids overrides :meth:`read_mask`.

    Args:
        images: the image files.
        masks: the mask file of each image, in the same order.
        classes: the classes of the ids.
        transform: joint transform of image and mask.
        names: one name for each image; ``None`` takes the file names without suffix.
    """

    def __init__(
        self,
        images: Sequence[Path],
        masks: Sequence[Path],
        classes: Classes,
        transform: Transform | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        names = [path.stem for path in images] if names is None else names
        super().__init__(names, classes, transform)
        self.images = list(images)
        self.masks = list(masks)

    def select(self, indices: Sequence[int]) -> Self:
        """The same dataset with these images and masks alone."""
        chosen = super().select(indices)
        chosen.images = [self.images[i] for i in indices]
        chosen.masks = [self.masks[i] for i in indices]
        return chosen

    def read_mask(self, path: Path) -> Tensor:
        """The class ids (H, W), uint8, in the file ``path``."""
        return read_mask(path)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image and mask ``index``.

        Raises:
            UserError: a file is missing or unreadable, the sizes differ, or an id is unknown.
        """
        image = read_image(self.images[index], self.layout)
        mask = turned_with(image, self.read_mask(self.masks[index]), self.images[index])
        check_pair(image, mask, self.classes, self.images[index], self.masks[index])
        return image, mask

    def kinds(self, *, pages: bool = False) -> list[tuple[str, Kind]]:
        """Names and kinds of up to 64 readable images, spread evenly.

        Raises:
            UserError: none of them is readable.
        """
        step = -(-len(self.images) // _INSPECTED) or 1  # rounded up
        found: list[tuple[str, Kind]] = []
        error: UserError | None = None
        for path in self.images[::step]:
            try:
                found.append((str(path), image_kind(path, pages=pages)))
            except UserError as unreadable:  # reading the images reports it
                error = error or unreadable
        if error is not None and not found:
            raise error
        return found


def turned_with(image: Tensor, mask: Tensor, path: Path) -> Tensor:
    """The mask (H, W), turned as its image was if it fits the pixels as the file stores them.

    Some tools draw masks on images as they are stored, and ignore the EXIF orientation.
    """
    if image.shape[1:] == mask.shape or image.shape[1:] != mask.shape[::-1]:
        return mask
    upright = turned(mask, orientation_of(path))
    return upright.contiguous() if upright.shape == image.shape[1:] else mask


def check_pair(
    image: Tensor, mask: Tensor, classes: Classes, image_path: object, mask_path: object
) -> None:
    """Raise a UserError unless image and mask have one size and the mask holds class ids."""
    if image.shape[1:] != mask.shape:
        raise UserError(
            f"mask '{mask_path}' is {_size(mask)} but its image "
            f"'{image_path}' is {_size(image)}; give both the same size"
        )
    _check_ids(mask, classes, mask_path)


def _check_ids(mask: Tensor, classes: Classes, path: object) -> None:
    """Raise a UserError that lists the unknown ids of ``mask`` and their pixels."""
    last = len(classes) - 1  # 255 at most: 256 would overflow to 0 in uint8
    if classes.ignore_index == 255 and mask.numel() and int((mask + 1).max()) <= last + 1:
        return  # 255 + 1 overflows to 0; one pass instead of four
    if ((mask <= last) | (mask == classes.ignore_index)).all():
        return  # cheaper than counting
    counts = torch.bincount(mask.flatten(), minlength=256)  # (256,)
    counts[: len(classes)] = 0
    counts[classes.ignore_index] = 0
    unknown = counts.nonzero().flatten().tolist()
    listed = ", ".join(f"{k} ({int(counts[k])} pixels)" for k in unknown)
    raise UserError(
        f"mask '{path}' holds ids outside the classes 0 to {last} and the ignored "
        f"{classes.ignore_index}: {listed}; correct the mask or the class list"
    )


def collate(samples: list[Sample]) -> dict[str, Tensor | list[str]]:
    """Stack samples into one batch.

    Raises:
        UserError: the samples differ in size.
    """
    sizes = {tuple(sample["mask"].shape) for sample in samples}
    if len(sizes) > 1:
        raise UserError(
            f"images of different sizes {sorted(sizes)} cannot share a batch; set eval_batch_size "
            "to 1"
        )
    return {
        "image": torch.stack(
            [sample["image"].as_subclass(Tensor) for sample in samples]
        ),  # (B, C, H, W)
        "mask": torch.stack([sample["mask"].as_subclass(Tensor) for sample in samples]).long(),
        "name": [sample["name"] for sample in samples],
    }


def largest_id(mask: Tensor) -> int:
    """The largest id except 255 in a mask; -1 if there is none."""
    used = mask[mask != 255]
    return int(used.max()) if used.numel() else -1


def numbered_classes(largest: int, path: str) -> Classes:
    """Classes called class_0 to class_``largest``, because the class list ``path`` is missing.

    Raises:
        UserError: fewer than two classes.
    """
    if largest < 1:
        raise UserError(
            f"the masks use {largest + 1} class ids besides 255, which is ignored, and '{path}' is "
            "missing; give each class its own id from 0 up, or list the classes in that file"
        )
    _warn_once(
        f"'{path}' is missing: the masks use ids up to {largest}, so the classes are called "
        f"class_0 to class_{largest}"
    )
    return Classes.numbered(largest + 1)


@cache
def _warn_once(message: str) -> None:
    logging.getLogger(__name__).warning(message)


def _size(tensor: Tensor) -> str:
    return f"{tensor.shape[-2]} rows x {tensor.shape[-1]} columns"
