"""The one skeleton of every data set, and people's own pictures in folders."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from scenewise.classes import Classes, distinct_colors
from scenewise.data.images import SUFFIXES, read_image, read_mask
from scenewise.data.missing_files import missing, refuse
from scenewise.errors import UserError
from scenewise.files import parse_json

Transform = Callable[[tv_tensors.Image, tv_tensors.Mask], tuple[tv_tensors.Image, tv_tensors.Mask]]


class Sample(TypedDict):
    """One picture (3, H, W) and its mask (H, W), both uint8."""

    image: Tensor
    mask: Tensor
    name: str


class SegmentationDataset(Dataset[Sample]):
    """What every data set here is: names, classes, and ``read(i)``, which a subclass writes.

    ``dataset[i]`` is ``{"image", "mask", "name"}`` after the joint ``transform``. Masks hold class
    ids and ``classes.ignore_index``. ``context_classes`` are those that only far context tells
    apart; ``categories`` are named groups of classes that are scored too.

    Args:
        names: one name for each picture.
        classes: what the ids mean.
        transform: joint transform of picture and mask; ``None`` leaves them as they are.
    """

    context_classes: ClassVar[tuple[int, ...]] = ()
    categories: ClassVar[Mapping[str, tuple[int, ...]]] = MappingProxyType({})

    def __init__(
        self, names: Sequence[str], classes: Classes, transform: Transform | None = None
    ) -> None:
        self.names = list(names)
        self.classes = classes
        self.transform = transform

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (3, H, W), uint8, RGB, and mask (H, W), uint8, as they are stored."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        return self.sample(self.names[index], *self.read(index))

    def sample(self, name: str, stored_image: Tensor, stored_mask: Tensor) -> Sample:
        """What was read, after the transform."""
        image, mask = tv_tensors.Image(stored_image), tv_tensors.Mask(stored_mask)
        if self.transform is not None:
            image, mask = self.transform(image, mask)
        return {"image": image, "mask": mask, "name": name}


class PairedDataset(SegmentationDataset):
    """Pictures in files, each with a mask in a file of its own.

    A subclass whose files hold other numbers than class ids overrides :meth:`read_mask`.

    Args:
        images: the pictures' files.
        masks: the mask of each picture, in the same order.
        classes: what the ids mean.
        transform: joint transform of picture and mask.
        names: one name for each picture; ``None`` takes the file names without suffix.
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

    def read_mask(self, path: Path) -> Tensor:
        """The class ids (H, W), uint8, that the file ``path`` means."""
        return read_mask(path)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image and mask ``index``.

        Raises:
            UserError: a file is missing or unreadable, the sizes differ, or an id is no class.
        """
        image, mask = read_image(self.images[index]), self.read_mask(self.masks[index])
        check_pair(image, mask, self.classes, self.images[index], self.masks[index])
        return image, mask


class FolderDataset(PairedDataset):
    """People's own pictures: ``images/SPLIT/NAME.jpg`` with ``masks/SPLIT/NAME.png``.

    Masks have one byte a pixel, the class id. ``classes.json`` beside the two folders names the
    classes; see :func:`read_classes`. Without it the classes are numbered, up to the largest id in
    the masks.

    Args:
        root: the folder that holds ``images``, ``masks`` and ``classes.json``.
        split: ``train``, ``val`` or ``test``.
        transform: joint transform of picture and mask.

    Raises:
        UserError: a folder is missing, the split is empty, a picture has no mask, two pictures
            share a name, or ``classes.json`` is not as it should be.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        transform: Transform | None = None,
    ) -> None:
        base = Path(root)
        images, masks = _pairs(base / "images" / split, base / "masks" / split)
        super().__init__(images, masks, _folder_classes(base), transform)


def check_pair(
    image: Tensor, mask: Tensor, classes: Classes, image_path: object, mask_path: object
) -> None:
    """Raise a UserError unless picture and mask have one size and the mask holds class ids."""
    if image.shape[1:] != mask.shape:
        raise UserError(
            f"mask '{mask_path}' is {_size(mask)} but its picture "
            f"'{image_path}' is {_size(image)}; give both the same size"
        )
    check_ids(mask, classes, mask_path)


def check_ids(mask: Tensor, classes: Classes, path: object) -> None:
    """Raise a UserError that lists the ids of ``mask`` which are no class, and how often."""
    last = len(classes) - 1  # 255 at most; 256 would be taken for 0 among bytes
    if classes.ignore_index == 255 and mask.numel() and int((mask + 1).max()) <= last + 1:
        return  # 255 + 1 is 0 among bytes; one pass instead of four
    if ((mask <= last) | (mask == classes.ignore_index)).all():
        return  # cheaper than to count
    counts = torch.bincount(mask.flatten(), minlength=256)
    counts[: len(classes)] = 0
    counts[classes.ignore_index] = 0
    found = ", ".join(f"{k} ({int(counts[k])} pixels)" for k in counts.nonzero().flatten().tolist())
    raise UserError(
        f"mask '{path}' holds ids outside the classes 0 to {len(classes) - 1} and the ignored "
        f"{classes.ignore_index}: {found}; correct the mask or the class list"
    )


def collate(samples: list[Sample]) -> dict[str, Tensor | list[str]]:
    """One batch of samples.

    Raises:
        UserError: the samples differ in size.
    """
    sizes = {tuple(sample["mask"].shape) for sample in samples}
    if len(sizes) > 1:
        raise UserError(
            f"pictures of different sizes {sorted(sizes)} cannot share a batch; evaluate them one "
            "by one with eval_batch_size 1"
        )
    return {
        "image": torch.stack([sample["image"].as_subclass(Tensor) for sample in samples]),
        "mask": torch.stack([sample["mask"].as_subclass(Tensor) for sample in samples]).long(),
        "name": [sample["name"] for sample in samples],
    }


def read_classes(path: str | os.PathLike[str]) -> Classes:
    """The classes in a JSON file.

    Two forms are read: ``{"names": ["road", ...], "colors": [[128, 64, 128], ...],
    "ignore_index": 255}``, and ``{"classes": [{"id": 0, "name": "road", "color": [128, 64, 128]},
    ...], "ignore_index": 255}``. Colours and ``ignore_index`` may be left out.

    Raises:
        UserError: the file is missing, is no JSON of these forms, or lists no class.
    """
    try:
        return _parse_classes(parse_json(Path(path).read_bytes()))
    except FileNotFoundError as error:
        raise UserError(f"no such class list: '{path}'; check the path") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(
            f"cannot use class list '{path}' ({reason}); write it like "
            '{"names": ["road", "sky"], "colors": [[128, 64, 128], [70, 130, 180]]}'
        ) from error


def _parse_classes(value: dict[str, Any]) -> Classes:
    names, colors = value.get("names"), value.get("colors")
    if "classes" in value:
        entries = sorted(value["classes"], key=lambda entry: int(entry["id"]))
        if [entry["id"] for entry in entries] != list(range(len(entries))):
            raise ValueError("ids must count 0, 1, 2, ...")
        names = [entry["name"] for entry in entries]
        colors = [entry["color"] for entry in entries if "color" in entry] or None
    if not isinstance(names, list):
        raise KeyError("names")
    if colors is None:
        colors = distinct_colors(len(names))
    ignore = value.get("ignore_index", 255)
    if not all(v in range(256) for v in (ignore, *(v for color in colors for v in color))):
        raise ValueError("colours and ignore_index must be whole numbers from 0 to 255")
    return Classes.from_dict({"names": names, "colors": colors, "ignore_index": ignore})


def _folder_classes(root: Path) -> Classes:
    """The classes of ``root/classes.json``, or numbered ones, as many as the masks use."""
    if (root / "classes.json").exists():
        return read_classes(root / "classes.json")
    masks = sorted((root / "masks").glob("*/*.png"))
    with ThreadPoolExecutor() as pool:
        largest = max(pool.map(lambda mask: _largest_id(mask, mask.stat().st_mtime_ns), masks))
    if largest < 1:
        raise UserError(
            f"the masks under '{root / 'masks'}' use {largest + 1} class ids besides 255, which is "
            "ignored; give each class its own id from 0 up, or list the classes in "
            f"'{root / 'classes.json'}'"
        )
    _warn_once(
        f"'{root / 'classes.json'}' is missing: the masks use ids up to {largest}, so the classes "
        f"are called class_0 to class_{largest}"
    )
    return Classes.numbered(largest + 1)


@cache
def _largest_id(path: Path, modified: int) -> int:
    """The largest id but 255 in a mask, -1 if there is none; ``modified`` keys the cache."""
    mask = read_mask(path)
    used = mask[mask != 255]
    return int(used.max()) if used.numel() else -1


@cache
def _warn_once(message: str) -> None:
    logging.getLogger(__name__).warning(message)


def _pairs(image_folder: Path, mask_folder: Path) -> tuple[list[Path], list[Path]]:
    """The pictures of one split by name, and the mask of each."""
    for folder in (image_folder, mask_folder):
        if not folder.is_dir():
            raise UserError(
                f"no folder '{folder}'; a data set needs '{image_folder}' with pictures and "
                f"'{mask_folder}' with their masks"
            )
    images = sorted(
        path
        for path in image_folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    if not images:
        raise UserError(
            f"no picture in '{image_folder}'; put files with these endings there: "
            + " ".join(SUFFIXES)
        )
    for first, second in pairwise(images):
        if first.stem == second.stem:
            raise UserError(f"'{first}' and '{second}' share one mask; rename or remove one")
    masks = [mask_folder / f"{path.stem}.png" for path in images]
    lost = missing(masks)
    if lost:
        refuse(
            f"{len(lost)} of {len(images)} pictures in '{image_folder}' have no mask, the first "
            f"is '{lost[0]}'; add the masks or remove the pictures"
        )
    return images, masks


def _size(tensor: Tensor) -> str:
    return f"{tensor.shape[-2]} rows x {tensor.shape[-1]} columns"
