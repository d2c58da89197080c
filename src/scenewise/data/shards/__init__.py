"""Datasets in shards: tar files of images with their masks, in a folder or an object store.

The layout is webdataset's: in a shard, ``000000007.jpg`` (any image) is followed by
``000000007.mask.png`` (class ids). ``index.json`` in the same folder lists the shards, the names of
their images and the classes. Nothing in them is executed or unpickled.
"""

import io
import tarfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import IO, Literal, NamedTuple

import fsspec
from PIL import Image
from torch import Tensor

from scenewise.classes import Classes
from scenewise.data.datasets import (
    PairedDataset,
    Progress,
    Root,
    SegmentationDataset,
    Transform,
    check_pair,
)
from scenewise.data.images import content_kind, decode_image, decode_mask, encode_image
from scenewise.data.prepare import check_same_classes, indexed_image
from scenewise.data.tiff import Kind
from scenewise.errors import UserError
from scenewise.files import atomic_write, parse_json, write_json

INDEX = "index.json"
_MASK = ".mask.png"
_INSPECTED = 4  # images whose headers are read to find the layout
_LARGEST = 2**30  # bytes of an image; a member may claim more
_Splits = dict[str, dict[str, list[str]]]  # split -> shard -> names of its images


class Encoded(NamedTuple):
    """An image and its mask, still encoded, and their paths for messages."""

    image: bytes
    mask: bytes
    image_path: str
    mask_path: str


class ShardSet(SegmentationDataset):
    """One split of a dataset in shards.

    ``read(i)`` looks up one image, which is slow over a network; training and evaluation read shard
    by shard, see :mod:`scenewise.data.shards.stream`.

    Args:
        root: folder of the shards, or its URL: ``https://``, ``s3://`` with s3fs, ``gs://`` with
            gcsfs, whatever fsspec opens.
        split: ``train``, ``val`` or ``test``.
        transform: joint transform of image and mask.

    Raises:
        UserError: the index is missing or damaged, or does not have this split.

    Attributes:
        shards: the URL of each shard and the names of its images.
    """

    def __init__(
        self, root: Root, split: str = "train", transform: Transform | None = None
    ) -> None:
        base = str(root).rstrip("/")
        classes, splits = read_splits(base)
        if not splits.get(split):
            known = ", ".join(sorted(splits)) or "none"
            raise UserError(
                f"split '{split}' not found among the shards in '{base}' (they have {known}); "
                "prepare it into the same folder"
            )
        self.shards = splits[split]
        self.root, self.split = base, split
        self._ends = list(accumulate(len(names) for _, names in self.shards))  # indices
        super().__init__([n for _, names in self.shards for n in names], classes, transform)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image and mask ``index``.

        Raises:
            UserError: the shard is missing or damaged, the sizes differ, or an id is unknown.
        """
        k = bisect_right(self._ends, index)
        url, names = self.shards[k]
        within = index - self._ends[k] + len(names)
        return self.decode(next(read_shard(url, len(names), within, within + 1)))

    def decode(self, sample: Encoded) -> tuple[Tensor, Tensor]:
        """Image (C, H, W) of the layout and mask (H, W), checked."""
        image = decode_image(sample.image, sample.image_path, self.layout)
        mask = decode_mask(sample.mask, sample.mask_path)
        check_pair(image, mask, self.classes, sample.image_path, sample.mask_path)
        return image, mask

    def kinds(self, *, pages: bool = False) -> list[tuple[str, Kind]]:
        """Names and kinds of the first images of the first shard."""
        url, names = self.shards[0]
        found: list[tuple[str, Kind]] = []
        with suppress(UserError):  # reading the images reports it
            for sample in read_shard(url, len(names), 0, min(_INSPECTED, len(names))):
                kind = content_kind(sample.image, sample.image_path, pages=pages)
                found.append((sample.image_path, kind))
        return found


def read_splits(root: str) -> tuple[Classes, dict[str, list[tuple[str, list[str]]]]]:
    """The classes, and for each split the URL of each shard with the names of its images.

    Raises:
        UserError: the index in ``root`` is missing or invalid.
    """
    classes, splits = _read_index(root)
    return classes, {
        split: [(f"{root}/{name}", names) for name, names in shards.items()]
        for split, shards in splits.items()
    }


def _read_index(root: str) -> tuple[Classes, _Splits]:
    """The classes, and for each split its shards with the names of their images.

    Raises:
        UserError: the index in ``root`` is missing or invalid.
    """
    url = f"{root}/{INDEX}"
    with _opened(url) as file:
        content = file.read()
    try:
        value = parse_json(content)
        splits = {
            str(split): {str(name): [str(n) for n in names] for name, names in shards.items()}
            for split, shards in value["splits"].items()
        }
        classes = Classes.from_dict(value["classes"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, UserError) as error:
        raise UserError(
            f"'{url}' is not an index of shards ({error!r}); write it with scenewise prepare "
            "--shards"
        ) from error
    for name in (name for shards in splits.values() for name in shards):
        if not name.endswith(".tar") or set(name) & set("/\\:?#"):
            raise UserError(
                f"'{url}' lists a shard '{name}'; only NAME.tar in the same folder is read"
            )
    return classes, splits


def read_shard(url: str, count: int, start: int = 0, stop: int | None = None) -> Iterator[Encoded]:
    """The samples ``start`` to ``stop`` of a shard of ``count``, in one pass over it.

    Raises:
        UserError: the shard cannot be opened, is truncated, or holds something else.
    """
    stop = count if stop is None else stop
    mode: Literal["r|", "r:"] = "r|" if (start, stop) == (0, count) else "r:"  # stream or seek
    read = 0
    with _opened(url) as file:
        try:
            with tarfile.open(fileobj=file, mode=mode) as tar:
                for image, mask in _pairs(tar):
                    if start <= read < stop:
                        image_path, mask_path = f"{url}/{image.name}", f"{url}/{mask.name}"
                        yield Encoded(image.content, mask.content, image_path, mask_path)
                    read += 1
                    if read >= stop < count:
                        return
        except Exception as error:  # of tar files, and of any file system
            raise UserError(f"shard '{url}' is damaged ({error}); copy it again") from error
    if read != count:
        raise UserError(f"shard '{url}' holds {read} of {count} samples; copy it again")


class _Member(NamedTuple):
    name: str
    content: bytes


def _pairs(tar: tarfile.TarFile) -> Iterator[tuple[_Member, _Member]]:
    image: tarfile.TarInfo | None = None
    content = b""
    for member in tar:
        if not member.isfile() or member.issparse():
            raise ValueError(f"'{member.name}' is not a plain file")
        if member.size > _LARGEST:
            raise ValueError(f"'{member.name}' claims {member.size:,} bytes")
        if image is None:  # images and masks alternate
            image, content = member, _read(tar, member)
        elif member.name.removesuffix(_MASK) == image.name.rpartition(".")[0]:
            yield _Member(image.name, content), _Member(member.name, _read(tar, member))
            image = None
        else:
            raise ValueError(f"'{member.name}' is not the mask of '{image.name}'")
    if image is not None:
        raise ValueError(f"'{image.name}' is not followed by its mask")


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    content = file.read()
    if len(content) != member.size:
        raise ValueError(f"'{member.name}' is truncated")
    return content


@contextmanager
def _opened(url: str) -> Iterator[IO[bytes]]:
    try:
        file = fsspec.open(url, "rb").open()
    except FileNotFoundError:
        raise UserError(
            f"'{url}' not found; check the address, or write shards with 'scenewise prepare FORMAT "
            "ROOT --shards N --out DIR'"
        ) from None
    except Exception as error:  # every file system has its own types
        reason = str(error) or type(error).__name__
        raise UserError(f"cannot open '{url}' ({reason}); check the address") from error
    with file:
        yield file


def write_shards(
    build: Callable[[str], SegmentationDataset],
    out: Root,
    splits: Sequence[str] = ("train", "val"),
    progress: Progress | None = None,
    workers: int | None = None,
    per_shard: int = 256,
) -> Path:
    """Write the splits of a dataset as shards and their index.

    Image files are stored unchanged; masks become PNGs of class ids. Every sample is read and
    checked. Existing shards are kept, so a second call resumes an interrupted one; the index is
    written when all shards of a split are complete.

    Args:
        build: makes the dataset of a split.
        out: folder of the result, which the format ``stream`` reads.
        splits: the splits to write.
        progress: wraps an iterable of known length, to show a progress bar.
        workers: threads; ``None`` for a few more than there are processors.
        per_shard: images in a shard. A shard should have 100 to 1000 MB, and there should be at
            least as many shards as workers in all processes.

    Returns:
        ``out``.

    Raises:
        UserError: an original is unusable, or ``out`` holds another dataset or is not writable.
    """
    target = Path(out)
    for split in splits:
        dataset = build(split)
        written = _written_splits(target, dataset.classes)
        starts = range(0, len(dataset), per_shard)
        shards: dict[str, list[str]] = {}
        with ThreadPoolExecutor(workers) as pool:
            work: Iterable[int] = starts
            if progress is not None:
                work = progress(starts, len(starts), f"writing shards of {split}")
            for start in work:
                name = f"{split}-{start // per_shard:05d}-of-{len(starts):05d}.tar"
                indices = range(start, min(start + per_shard, len(dataset)))
                if not (target / name).exists():
                    _write_shard(target / name, dataset, indices, pool)
                shards[name] = [dataset.names[i] for i in indices]
        index = {"classes": dataset.classes.to_dict(), "splits": {**written, split: shards}}
        write_json(target / INDEX, index)
    return target


def _written_splits(target: Path, classes: Classes) -> _Splits:
    if not (target / INDEX).exists():
        return {}
    existing, splits = _read_index(str(target))
    check_same_classes(existing, classes, target)
    return splits


def _write_shard(
    path: Path, dataset: SegmentationDataset, indices: range, pool: ThreadPoolExecutor
) -> None:
    with atomic_write(path) as temporary, tarfile.open(temporary, "w") as tar:
        parts = pool.map(lambda index: _encoded(dataset, index), indices)
        for index, (suffix, image, mask) in zip(indices, parts, strict=True):
            for name, content in ((f"{index:09d}{suffix}", image), (f"{index:09d}{_MASK}", mask)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _encoded(dataset: SegmentationDataset, index: int) -> tuple[str, bytes, bytes]:
    image, mask = dataset.read(index)
    mask_png = _png(indexed_image(mask, dataset.classes))
    if isinstance(dataset, PairedDataset):
        original = dataset.images[index]
        return original.suffix.lower(), original.read_bytes(), mask_png
    return *encode_image(image), mask_png


def _png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, format="PNG")
    return content.getvalue()
