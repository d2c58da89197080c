"""Data sets in shards: tar files of many pictures with their masks, local or in an object store.

The layout is webdataset's: in a shard, ``000000007.jpg`` (any picture) is followed by
``000000007.mask.png`` (class ids). ``index.json`` beside the shards lists them, the names of their
pictures and the classes. Nothing in them is executed or unpickled.
"""

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import accumulate
from os import PathLike
from pathlib import Path
from typing import IO, Any, NamedTuple

import fsspec
from PIL import Image
from torch import Tensor

from scenewise.classes import Classes
from scenewise.data.datasets import PairedDataset, SegmentationDataset, Transform, check_pair
from scenewise.data.images import decode_image, decode_mask
from scenewise.errors import UserError
from scenewise.files import atomic_write, parse_json, write_json

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]
INDEX = "index.json"
MASK = ".mask.png"
LARGEST = 2**30  # bytes of a picture


class Encoded(NamedTuple):
    """A picture and its mask as they lie in a shard, and what errors call them."""

    image: bytes
    mask: bytes
    image_path: str
    mask_path: str


class ShardSet(SegmentationDataset):
    """One split of a data set in shards.

    ``read(i)`` looks one picture up, which is slow over a network; training and evaluation read
    shard by shard, see :mod:`scenewise.data.shards.stream`.

    Args:
        root: folder of the shards, or its URL: ``https://``, ``s3://`` with s3fs, ``gs://`` with
            gcsfs, whatever fsspec opens.
        split: ``train``, ``val`` or ``test``.
        transform: joint transform of picture and mask.

    Raises:
        UserError: no index, a broken one, or one without this split.

    Attributes:
        shards: the URL of each shard and the names of its pictures.
    """

    def __init__(
        self, root: str | PathLike[str], split: str = "train", transform: Transform | None = None
    ) -> None:
        base = str(root).rstrip("/")
        classes, splits = read_index(base)
        if not splits.get(split):
            known = ", ".join(sorted(splits)) or "none"
            raise UserError(
                f"the shards in '{base}' have no split '{split}' (they have {known}); prepare it "
                "into the same folder"
            )
        self.shards = [(f"{base}/{name}", names) for name, names in splits[split].items()]
        self.root, self.split = base, split
        self._ends = list(accumulate(len(names) for _, names in self.shards))
        super().__init__([n for _, names in self.shards for n in names], classes, transform)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image and mask ``index``.

        Raises:
            UserError: the shard is missing or broken, the sizes differ, or an id is no class.
        """
        number = next(k for k, end in enumerate(self._ends) if index < end)
        within = index - self._ends[number] + len(self.shards[number][1])
        url, names = self.shards[number]
        return self.decode(next(read_shard(url, len(names), within, within + 1)))

    def decode(self, sample: Encoded) -> tuple[Tensor, Tensor]:
        """Image and mask, both uint8, checked as those of every data set."""
        image = decode_image(sample.image, sample.image_path)
        mask = decode_mask(sample.mask, sample.mask_path)
        check_pair(image, mask, self.classes, sample.image_path, sample.mask_path)
        return image, mask


def read_index(root: str) -> tuple[Classes, dict[str, dict[str, list[str]]]]:
    """The classes, and for each split its shards with the names of their pictures.

    Raises:
        UserError: there is no index in ``root``, or it is not one.
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
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        UserError,
    ) as error:
        raise UserError(
            f"'{url}' is no index of shards ({error!r}); write it with scenewise prepare --shards"
        ) from error
    for name in (name for shards in splits.values() for name in shards):
        if not name.endswith(".tar") or set(name) & set("/\\:?#"):
            raise UserError(
                f"'{url}' names a shard '{name}'; only plain NAME.tar beside it is read"
            )
    return classes, splits


def read_shard(url: str, count: int, start: int = 0, stop: int | None = None) -> Iterator[Encoded]:
    """The samples ``start`` to ``stop`` of a shard of ``count``, in one pass over it.

    Raises:
        UserError: the shard cannot be opened, is cut off, or holds something else.
    """
    stop = count if stop is None else stop
    mode: Any = "r|" if (start, stop) == (0, count) else "r:"  # all in one stream, or by seeking
    found = 0
    with _opened(url) as file:
        try:
            with tarfile.open(fileobj=file, mode=mode) as tar:
                for image, mask in _pairs(tar):
                    if start <= found < stop:
                        image_path, mask_path = f"{url}/{image.name}", f"{url}/{mask.name}"
                        yield Encoded(image.content, mask.content, image_path, mask_path)
                    found += 1
                    if found >= stop < count:
                        return
        except Exception as error:  # of tar files, and whatever a file system raises
            raise UserError(f"shard '{url}' is broken ({error}); copy it again") from error
    if found != count:
        raise UserError(f"shard '{url}' holds {found} of {count} samples; copy it again")


class _Member(NamedTuple):
    name: str
    content: bytes


def _pairs(tar: tarfile.TarFile) -> Iterator[tuple[_Member, _Member]]:
    image: tarfile.TarInfo | None = None
    content = b""
    for member in tar:
        if not member.isfile() or member.issparse():
            raise ValueError(f"'{member.name}' is no file")
        if member.size > LARGEST:
            raise ValueError(f"'{member.name}' is said to have {member.size:,} bytes")
        if image is None:
            image, content = member, _read(tar, member)
        elif member.name.removesuffix(MASK) == image.name.rpartition(".")[0]:
            yield _Member(image.name, content), _Member(member.name, _read(tar, member))
            image = None
        else:
            raise ValueError(f"'{member.name}' is not the mask of '{image.name}'")
    if image is not None:
        raise ValueError(f"'{image.name}' has no mask behind it")


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    content = file.read()
    if len(content) != member.size:
        raise ValueError(f"'{member.name}' is cut off")
    return content


@contextmanager
def _opened(url: str) -> Iterator[IO[bytes]]:
    try:
        file = fsspec.open(url, "rb").open()
    except FileNotFoundError:
        raise UserError(
            f"cannot open '{url}': there is none; check the address, or write shards with "
            "'scenewise prepare FORMAT ROOT --shards N --out DIR'"
        ) from None
    except Exception as error:  # every file system has errors of its own
        reason = str(error) or type(error).__name__
        raise UserError(f"cannot open '{url}' ({reason}); check the address") from error
    with file:
        yield file


def write_shards(
    build: Callable[[str], SegmentationDataset],
    out: str | PathLike[str],
    splits: Sequence[str] = ("train", "val"),
    progress: Progress | None = None,
    workers: int | None = None,
    per_shard: int = 256,
) -> Path:
    """Write the splits of a data set as shards and their index.

    Pictures that are files keep their bytes; masks become PNGs of class ids. Every sample is read
    and checked. Shards that are already there are kept, so a second call goes on where the first
    one stopped; the index appears when all shards of a split are whole.

    Args:
        build: makes the data set of a split.
        out: folder of the result, which the format ``stream`` reads.
        splits: which ones to write.
        progress: wraps an iterable of known length with a description.
        workers: threads.
        per_shard: pictures in a shard. Choose it so that a shard has some 100 to 1000 MB, and
            that there are at least as many shards as workers in all.

    Returns:
        ``out``.

    Raises:
        UserError: an original is unusable, ``out`` holds another data set, or cannot be written.
    """
    target = Path(out)
    for split in splits:
        dataset = build(split)
        found = _written(target, dataset.classes)
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
        index = {"classes": dataset.classes.to_dict(), "splits": {**found, split: shards}}
        write_json(target / INDEX, index)
    return target


def _written(target: Path, classes: Classes) -> dict[str, dict[str, list[str]]]:
    if not (target / INDEX).exists():
        return {}
    there, splits = read_index(str(target))
    if there != classes:
        raise UserError(
            f"'{target}' already holds a data set of other classes; give another folder"
        )
    return splits


def _write_shard(
    path: Path, dataset: SegmentationDataset, indices: range, pool: ThreadPoolExecutor
) -> None:
    with atomic_write(path) as temporary, tarfile.open(temporary, "w") as tar:
        parts = pool.map(lambda index: _encoded(dataset, index), indices)
        for index, (suffix, image, mask) in zip(indices, parts, strict=True):
            for name, content in ((f"{index:09d}{suffix}", image), (f"{index:09d}{MASK}", mask)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _encoded(dataset: SegmentationDataset, index: int) -> tuple[str, bytes, bytes]:
    image, mask = dataset.read(index)
    indexed = Image.fromarray(mask.numpy())
    indexed.putpalette(dataset.classes.palette())
    if isinstance(dataset, PairedDataset):
        original = dataset.images[index]
        return original.suffix.lower(), original.read_bytes(), _png(indexed)
    return ".png", _png(Image.fromarray(image.permute(1, 2, 0).numpy())), _png(indexed)


def _png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()
