"""Images without labels for a training: found in a folder, checked, drawn with labelled ones."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from scenewise.data.datasets import PairedDataset, Sample, SegmentationDataset, collate
from scenewise.data.images import SUFFIXES, image_kind, read_image
from scenewise.data.layout import Layout
from scenewise.data.two_views import Views
from scenewise.errors import UserError

_LOOKED_AT = 32  # images that are read before the training starts


class UnlabelledImages:
    """The images of a folder, without those that the training is scored on.

    All images under ``folder/images`` if there is such a folder, else all under ``folder``. A copy
    of a validation or test image, equal to the byte, is left out: what the network has adapted to
    cannot score it. Copies of training images stay. Both are in ``notes``.

    Args:
        folder: of image files, with any sub-folders.
        layout: channels and bits of the labelled images.
        labelled: the labelled images by split.

    Raises:
        UserError: the folder does not exist or has no images, an image that is looked at is
            unreadable or has other channels or bits, or only validation images are left.

    Attributes:
        folder: where they are.
        paths: the files, in order of their names.
        notes: what a user should know.
    """

    def __init__(
        self, folder: str | Path, layout: Layout, labelled: Mapping[str, SegmentationDataset]
    ) -> None:
        self.folder, self.layout = Path(folder), layout
        self.notes: list[str] = []
        found = _images_under(self.folder)
        self.paths = self._without_scored(found, labelled)
        self._check()

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Tensor:
        """Image (C, H, W) of the layout of the labelled ones."""
        return read_image(self.paths[index], self.layout)

    @property
    def fingerprint(self) -> str:
        """How many, and a hash of their names, by which a resumed training knows them."""
        names = "\n".join(str(path.relative_to(self.folder)) for path in self.paths)
        return f"{len(self)} images ({hashlib.sha256(names.encode()).hexdigest()[:8]})"

    def _without_scored(
        self, found: Sequence[Path], labelled: Mapping[str, SegmentationDataset]
    ) -> list[Path]:
        files = {
            split: dataset.images
            for split, dataset in labelled.items()
            if isinstance(dataset, PairedDataset)
        }
        scored = _copies(found, [path for s in files if s != "train" for path in files[s]])
        kept = [path for path in found if path not in scored]
        if scored:
            self.notes.append(
                f"{len(scored)} of the {len(found)} images in '{self.folder}' are validation or "
                "test images and are left out"
            )
        if not kept:
            raise UserError(
                f"all {len(found)} images in --unlabelled '{self.folder}' are validation or test "
                "images, which a training must not see; give other images"
            )
        again = _copies(kept, files.get("train", []))
        if again:
            self.notes.append(
                f"{len(again)} of the images in '{self.folder}' are labelled training images too"
            )
        if len(files) < len(labelled):
            self.notes.append(
                f"the images in '{self.folder}' are not compared with the labelled ones, which are "
                "not image files; take out validation and test images yourself"
            )
        return kept

    def _check(self) -> None:
        """Read a few images, spread evenly."""
        looked_at = self.paths[:: -(-len(self.paths) // _LOOKED_AT)]
        for path in looked_at:
            try:
                read_image(path, self.layout)
            except UserError as error:
                raise UserError(f"--unlabelled: {error}") from error
        if self.layout.rgb and all(image_kind(path).channels == 1 for path in looked_at):
            raise UserError(
                f"the images in --unlabelled '{self.folder}' have 1 channel but the labelled ones "
                "have 3; give colour images, and no masks"
            )


def _images_under(folder: Path) -> list[Path]:
    """The image files under ``folder/images`` or ``folder``, in order of their names."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"--unlabelled '{folder}' {what}; give a folder of images")
    inside = folder / "images"
    place = inside if inside.is_dir() else folder
    found = [
        Path(parent, name)
        for parent, _, names in os.walk(place, followlinks=True)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]
    if not found:
        raise UserError(
            f"no images in --unlabelled '{place}'; files that end in {', '.join(SUFFIXES)} count"
        )
    return sorted(found)


def _copies(images: Iterable[Path], originals: Iterable[Path]) -> set[Path]:
    """Which of ``images`` are equal to one of ``originals`` to the byte."""
    by_size: dict[int, list[Path]] = {}
    for path in originals:
        if path.exists():  # a missing file is reported where it is read
            by_size.setdefault(path.stat().st_size, []).append(path)
    candidates = [path for path in images if path.stat().st_size in by_size]
    sizes = {path.stat().st_size for path in candidates}
    known = {_digest(path) for size in sizes for path in by_size[size]}
    return {path for path in candidates if _digest(path) in known}


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


class WithUnlabelled(Dataset[Any]):
    """Each labelled sample together with two views of a window of a random unlabelled image.

    The labelled part is that of ``labelled[i]`` to the bit, whatever the unlabelled images are.
    Random numbers come from PyTorch's generator, so a loader that seeds each sample repeats both.

    Args:
        labelled: the training images.
        unlabelled: the images without labels; one is drawn with equal probability.
        views: an image (C, H, W) -> its two views.
    """

    def __init__(
        self,
        labelled: SegmentationDataset,
        unlabelled: UnlabelledImages,
        views: Callable[[Tensor], Views],
    ) -> None:
        self.labelled, self.unlabelled, self.views = labelled, unlabelled, views

    def __len__(self) -> int:
        return len(self.labelled)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.labelled[index]
        drawn = int(torch.randint(len(self.unlabelled), ()))
        views = self.views(self.unlabelled.read(drawn))
        return {**sample, **views, "unlabelled_name": self.unlabelled.paths[drawn].stem}


def collate_both(samples: list[Any]) -> dict[str, Any]:
    """One batch of labelled samples, as :func:`~scenewise.data.datasets.collate`, and of views.

    Returns:
        ``image``, ``mask`` and ``name``; ``weak`` and ``strong`` (B, C, h, w), ``known`` (B, h, w)
        and ``box`` (B, 4); ``unlabelled_name``.
    """
    labelled: list[Sample] = samples
    views = {name: torch.stack([s[name] for s in samples]) for name in Views.__annotations__}
    names = [sample["unlabelled_name"] for sample in samples]
    return {**collate(labelled), **views, "unlabelled_name": names}
