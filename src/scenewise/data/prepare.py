"""Rewriting a published dataset in the ``folder`` layout: images with masks of class ids."""

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image
from torch import Tensor

from scenewise.classes import Classes
from scenewise.data.class_lists import read_classes
from scenewise.data.datasets import PairedDataset, Progress, SegmentationDataset
from scenewise.data.images import encode_image
from scenewise.errors import UserError
from scenewise.files import atomic_write, inside, write_json


def prepare(
    build: Callable[[str], SegmentationDataset],
    out: str | os.PathLike[str],
    splits: Sequence[str] = ("train", "val"),
    progress: Progress | None = None,
    workers: int | None = None,
) -> Path:
    """Write ``out/masks/SPLIT/NAME.png`` (class ids, coloured by a palette) and ``classes.json``.

    ``out/images/SPLIT`` gets links to the images, or copies where the file system does not support
    links; the originals are only read. Existing masks are kept, so a second call resumes an
    interrupted one.

    Args:
        build: makes the dataset of a split.
        out: folder of the result, which the format ``folder`` reads.
        splits: the splits to write.
        progress: wraps an iterable of known length, to show a progress bar.
        workers: threads; ``None`` for a few more than there are processors.

    Returns:
        ``out``.

    Raises:
        UserError: an original is unusable, or ``out`` holds another dataset or is not writable.
    """
    target = Path(out)
    datasets = {split: build(split) for split in splits}
    for split, dataset in datasets.items():
        _write_classes(target / "classes.json", dataset.classes)
        with ThreadPoolExecutor(workers) as pool:
            write = partial(_write_pair, dataset, target, split)
            written: Iterable[None] = pool.map(write, range(len(dataset)))
            if progress is not None:
                written = progress(written, len(dataset), f"writing {split}")
            for _ in written:  # raises the threads' errors
                pass
    return target


def _write_pair(dataset: SegmentationDataset, target: Path, split: str, index: int) -> None:
    name = dataset.names[index]
    mask_path = inside(target / "masks" / split, f"{name}.png")
    if mask_path.exists():
        return
    image, mask = dataset.read(index)
    if isinstance(dataset, PairedDataset):
        original = dataset.images[index]
        link_file(original, target / "images" / split / f"{name}{original.suffix}")
    else:
        suffix, content = encode_image(image)
        with atomic_write(target / "images" / split / f"{name}{suffix}") as temporary:
            Path(temporary).write_bytes(content)
    with atomic_write(mask_path) as temporary:
        indexed_image(mask, dataset.classes).save(temporary, format="PNG")


def indexed_image(mask: Tensor, classes: Classes) -> Image.Image:
    """Class ids (H, W), uint8, as an indexed image with the colours of the classes."""
    indexed = Image.fromarray(mask.numpy())
    indexed.putpalette(classes.palette())
    return indexed


def link_file(original: Path, path: Path) -> None:
    """Link ``path`` to ``original`` relatively, or copy it; an existing file is kept."""
    if path.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # a link whose target has moved
        path.symlink_to(os.path.relpath(original.resolve(), path.parent.resolve()))
    except OSError:
        with atomic_write(path) as temporary:
            shutil.copyfile(original, temporary)


def _write_classes(path: Path, classes: Classes) -> None:
    if not path.exists():
        write_json(path, classes.to_dict())
    else:
        check_same_classes(read_classes(path), classes, path.parent)


def check_same_classes(existing: Classes, classes: Classes, folder: Path) -> None:
    """Raise a UserError if ``folder`` already holds a dataset of other classes."""
    if existing != classes:
        raise UserError(f"'{folder}' already holds a dataset of other classes; use another folder")
