"""Feature maps of augmented training images in one memory-mapped file, instead of the images."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from scenewise.errors import UserError
from scenewise.files import parse_json, write_json

_ABOUT, _VIEWS = "about.json", "views.bin"
_UNITS = {f"{prefix}{unit}": base**power for power, prefix in enumerate("KMGT", start=1)
          for unit, base in (("B", 1000), ("iB", 1024))}  # fmt: skip


class View(TypedDict):
    """Feature maps of one augmented image, (C, h, w) each, and its mask (H, W), uint8."""

    features: list[Tensor]
    mask: Tensor
    name: str


@dataclass(frozen=True)
class ViewFormat:
    """What the file has of each view.

    Attributes:
        maps: (C, h, w) of every feature map of the backbone.
        used: indices of the feature maps that are stored, those that the heads read.
        mask: (H, W) of the mask.
        dtype: of the feature maps, by its name in PyTorch.
        stored: their type in the file, by its name in NumPy.
    """

    maps: list[list[int]]
    used: list[int]
    mask: list[int]
    dtype: str
    stored: str = "float16"

    @property
    def record(self) -> np.dtype[Any]:
        """One view in the file: the used maps with channels last, then the mask."""
        sides = {f"map{i}": (h, w, c) for i, (c, h, w) in enumerate(self.maps)}
        fields: list[Any] = [(f"map{i}", self.stored, sides[f"map{i}"]) for i in self.used]
        return np.dtype([*fields, ("mask", "uint8", tuple(self.mask))])

    def pack(self, features: Sequence[Tensor], masks: Tensor) -> bytes:
        """The records of a batch: maps (B, C, h, w) and masks (B, H, W).

        Raises:
            UserError: a feature is too large for the type in the file.
        """
        records = np.empty(len(masks), self.record)
        for i in self.used:
            values = features[i].detach().permute(0, 2, 3, 1).cpu()  # (B, h, w, C)
            stored = values.to(getattr(torch, self.stored))
            if not torch.equal(stored.isfinite(), values.isfinite()):
                raise UserError(
                    f"--data.cache_features keeps features as {self.stored}, but the backbone has "
                    f"one of {float(values.abs().max()):.3g}; leave the option out"
                )
            records[f"map{i}"] = stored.numpy()
        records["mask"] = masks.to(torch.uint8).cpu().numpy()
        return records.tobytes()


class CachedViews(Dataset[View]):
    """The views that :func:`write_views` wrote; row ``k * N + i`` is view k of image i.

    It can be made before the folder exists; :meth:`open` maps the file into memory.

    Args:
        names: of the N images.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.views = 0
        self._records: Any = None
        self._format: ViewFormat | None = None

    def open(self, folder: Path) -> None:
        """Read from ``folder``, whose file must be whole."""
        about = parse_json((folder / _ABOUT).read_bytes())
        self._format, self.views = ViewFormat(**about["format"]), about["views"]
        rows = self.views * len(self.names)
        self._records = np.memmap(folder / _VIEWS, self._format.record, "r", shape=(rows,))

    def close(self) -> None:
        """Release the file."""
        self._records = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> View:
        form, record = self._format, self._records[row]
        assert form is not None
        features = []
        for i, (channels, height, width) in enumerate(form.maps):
            if i in form.used:
                values = torch.from_numpy(np.array(record[f"map{i}"]))  # (h, w, C)
                features.append(values.to(getattr(torch, form.dtype)).permute(2, 0, 1))
            else:  # the heads look at its shape alone
                nothing = torch.zeros((), dtype=getattr(torch, form.dtype))
                features.append(nothing.expand(channels, height, width))
        mask = torch.from_numpy(np.array(record["mask"]))
        return {"features": features, "mask": mask, "name": self.names[row % len(self.names)]}


def collate_views(views: list[View]) -> dict[str, Any]:
    """Stack views into one batch; feature maps (B, C, h, w) are in channels-last format."""
    maps = zip(*(view["features"] for view in views), strict=True)
    return {
        "features": [_stacked(values) for values in maps],
        "mask": torch.stack([view["mask"] for view in views]).long(),  # (B, H, W)
        "name": [view["name"] for view in views],
    }


def _stacked(values: Sequence[Tensor]) -> Tensor:
    if values[0].stride() == (0, 0, 0):  # not stored
        return values[0].expand(len(values), *values[0].shape)
    return torch.stack([v.permute(1, 2, 0) for v in values]).permute(0, 3, 1, 2)


def write_views(
    folder: Path,
    form: ViewFormat,
    batches: Iterable[tuple[Sequence[Tensor], Tensor]],
    *,
    views: int,
    made_from: dict[str, str],
) -> None:
    """Write all views into ``folder``, which should get its final name afterwards.

    Args:
        folder: is made.
        form: of the views.
        batches: feature maps and masks, in the order of the rows.
        views: of each image.
        made_from: what the features depend on, for :func:`outdated`.

    Raises:
        UserError: the disk is full, or the folder is not writable.
    """
    try:
        folder.mkdir(parents=True)
        with (folder / _VIEWS).open("wb") as file:
            for features, masks in batches:
                file.write(form.pack(features, masks))
            written = file.tell()
    except OSError as error:
        raise UserError(
            f"cannot write features to '{folder}': {error.strerror or error}; give a smaller "
            "--data.cache_features, or a disk with more space"
        ) from error
    about = {"views": views, "format": asdict(form), "bytes": written, "made_from": made_from}
    write_json(folder / _ABOUT, about)


def outdated(folder: Path, made_from: dict[str, str]) -> list[str] | None:
    """Names of what has changed since the features in ``folder`` were written; None: no features.

    An empty list means that they can be used. A file that is not whole has changed, too.
    """
    try:
        about = parse_json((folder / _ABOUT).read_bytes())
        before, size = about["made_from"], (folder / _VIEWS).stat().st_size
    except (OSError, ValueError, LookupError, TypeError):
        return None
    names = sorted(before.keys() | made_from.keys())
    changed = [name for name in names if before.get(name) != made_from.get(name)]
    return changed if size == about.get("bytes") else [*changed, "the file"]


def check_cache_size(value: int | str) -> int | float:
    """Views of each image as an int, or bytes as a float.

    Raises:
        UserError: neither.

    >>> check_cache_size(4), check_cache_size("4"), check_cache_size("1.5GiB")
    (4, 4, 1610612736.0)
    >>> check_cache_size("many")
    Traceback (most recent call last):
    scenewise.errors.UserError: --data.cache_features is 'many'; give a number of views, or a ...
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]i?B)?", str(value))
    number, unit = match.groups() if match else ("0", None)
    size: int | float = float(number) * _UNITS[unit] if unit else float(number)
    if size <= 0 or (not unit and size != int(size)):
        raise UserError(
            f"--data.cache_features is '{value}'; give a number of views, or a size such as 4GiB"
        )
    return float(size) if unit else int(size)


def views_within(value: int | str, images: int, view_bytes: int) -> int:
    """How many views of each image the option ``cache_features`` allows.

    Raises:
        UserError: the size is too small for one.

    >>> views_within("4GiB", images=367, view_bytes=2**20), views_within(3, 367, 2**20)
    (11, 3)
    """
    size = check_cache_size(value)
    if isinstance(size, int):
        return size
    views = int(size // (images * view_bytes))
    if views < 1:
        raise UserError(
            f"--data.cache_features {value} is too small for one view of each of {images} images; "
            f"give {images * view_bytes / 2**20:.3g}MiB or more"
        )
    return views
