"""Rewriting a published data set once as pictures with class-id masks, the ``folder`` layout."""

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from scenewise.classes import Classes
from scenewise.data.datasets import PairedDataset, SegmentationDataset, read_classes
from scenewise.errors import UserError
from scenewise.files import atomic_write, inside, write_json

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]


def prepare(
    build: Callable[[str], SegmentationDataset],
    out: str | os.PathLike[str],
    splits: Sequence[str] = ("train", "val"),
    progress: Progress | None = None,
    workers: int | None = None,
) -> Path:
    """Write ``out/masks/SPLIT/NAME.png`` (class ids, coloured by a palette) and ``classes.json``.

    ``out/images/SPLIT`` gets links to the pictures, or copies where the file system knows no
    links; the originals are only read. Masks that are already there are kept, so a second call
    goes on where the first one stopped.

    Args:
        build: makes the data set of a split.
        out: folder of the result, which the format ``folder`` reads.
        splits: which ones to write.
        progress: wraps an iterable of known length with a description.
        workers: threads.

    Returns:
        ``out``.

    Raises:
        UserError: an original is unusable, ``out`` holds another data set, or cannot be written.
    """
    target = Path(out)
    datasets = {split: build(split) for split in splits}
    for split, dataset in datasets.items():
        _write_classes(target / "classes.json", dataset.classes)
        with ThreadPoolExecutor(workers) as pool:
            done: Iterable[None] = pool.map(_job(dataset, target, split), range(len(dataset)))
            if progress is not None:
                done = progress(done, len(dataset), f"writing {split}")
            for _ in done:
                pass
    return target


def _job(dataset: SegmentationDataset, target: Path, split: str) -> Callable[[int], None]:
    return lambda index: _write_pair(dataset, index, target, split)


def _write_pair(dataset: SegmentationDataset, index: int, target: Path, split: str) -> None:
    name = dataset.names[index]
    mask_path = inside(target / "masks" / split, f"{name}.png")
    if mask_path.exists():
        return
    image, mask = dataset.read(index)
    if isinstance(dataset, PairedDataset):
        original = dataset.images[index]
        _link(original, target / "images" / split / f"{name}{original.suffix}")
    else:
        with atomic_write(target / "images" / split / f"{name}.png") as temporary:
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(temporary, format="PNG")
    indexed = Image.fromarray(mask.numpy())
    indexed.putpalette(dataset.classes.palette())
    with atomic_write(mask_path) as temporary:
        indexed.save(temporary, format="PNG")


def _link(original: Path, path: Path) -> None:
    """Make ``path`` the same picture as ``original``, by a relative link if possible."""
    if path.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # a link whose picture has moved
        path.symlink_to(os.path.relpath(original.resolve(), path.parent.resolve()))
    except OSError:
        with atomic_write(path) as temporary:
            shutil.copyfile(original, temporary)


def _write_classes(path: Path, classes: Classes) -> None:
    if not path.exists():
        write_json(path, classes.to_dict())
    elif read_classes(path) != classes:
        raise UserError(
            f"'{path.parent}' already holds a data set of other classes; give another folder"
        )
