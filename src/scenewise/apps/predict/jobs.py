"""Jobs of ``--engine ray``: images and shards, with the names of their results."""

import os
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scenewise.apps.predict.inputs import Inputs, unique_naming
from scenewise.apps.predict.stores import Store, is_url
from scenewise.data.shards import INDEX, read_splits
from scenewise.errors import UserError
from scenewise.files import inside


@dataclass(frozen=True)
class Job:
    """An image, or a shard of images, that one actor labels.

    Args:
        source: path or URL.
        names: of the results: one for an image, one for each image of a shard.
        identity: what changes with the content; None if the actor looks at the file, a local one.
        is_shard: whether ``source`` is a shard.
        written: for each name, whether an earlier run wrote its results; None if the actor looks
            at the files, local ones.
    """

    source: str
    names: list[str]
    identity: list[Any] | None = None
    is_shard: bool = False
    written: list[bool] | None = None


def list_jobs(words: Sequence[str]) -> tuple[list[Job], int]:
    """The jobs for the inputs of the command, and the number of other files in local folders.

    Args:
        words: images, folders, patterns, or one dataset in shards; all local or all URLs.

    Raises:
        UserError: no images, a store that cannot be listed, videos, or names that are not unique.
    """
    if len({is_url(word) for word in words}) > 1:
        raise UserError(f"{', '.join(words)} are local and in a store; predict one after the other")
    if any(map(_holds_shards, words)):
        if len(words) > 1:
            raise UserError(f"give the shards in '{words[0]}' alone, without other inputs")
        return _shard_jobs(words[0].rstrip("/")), 0
    if is_url(words[0]):
        return _store_jobs(words), 0
    inputs = Inputs(words)
    if (video := inputs.first_video()) is not None:
        raise UserError(f"--engine ray labels images; leave out video '{video}'")
    return [Job(str(file), [name]) for file, name in inputs], inputs.left_out


def mark_written(jobs: Sequence[Job], files: Sequence[str], existing: Container[str]) -> list[Job]:
    """The jobs with ``written``, for results in a store.

    Args:
        jobs: without it.
        files: of each image, relative to the output, with ``{}`` for its name.
        existing: the files in the store, relative to the output.

    >>> mark_written([Job("a.png", ["a"])], ["labels/{}.png"], {"labels/a.png"})[0].written
    [True]
    """
    return [
        replace(
            job,
            written=[all(f.replace("{}", name) in existing for f in files) for name in job.names],
        )
        for job in jobs
    ]


def _holds_shards(word: str) -> bool:
    if not is_url(word):
        return Path(word, INDEX).is_file() and any(Path(word).glob("*.tar"))
    is_folder = "*" not in word and not Path(word).suffix
    return is_folder and Store(word).has(INDEX)


def _shard_jobs(root: str) -> list[Job]:
    """The shards of all splits; with several, names start with that of the split."""
    _, splits = read_splits(root)
    jobs = []
    for split, shards in splits.items():
        top = f"{split}/" if len(splits) > 1 else ""
        for url, names in shards:
            for name in names:
                inside(Path("labels"), f"{top}{name}")
            results = [f"{top}{name}" for name in names]
            jobs.append(Job(url, results, _identity(url), is_shard=True))
    counts = Counter(name.casefold() for job in jobs for name in job.names)
    name, count = max(counts.items(), key=lambda item: item[1], default=("", 0))
    if count != 1:
        reason = f"{count} images called '{name}'" if count else "no image"
        raise UserError(f"the shards in '{root}' hold {reason}; write them again")
    return jobs


def _identity(shard: str) -> list[Any]:
    if is_url(shard):
        return Store(shard).identity()
    try:
        status = os.stat(shard)
    except OSError as error:
        raise UserError(
            f"shard '{shard}' cannot be read: {error.strerror}; copy it again"
        ) from error
    return [status.st_size, status.st_mtime_ns]


def _store_jobs(words: Sequence[str]) -> list[Job]:
    listed = {image.url: image for word in words for image in Store(word).images()}
    paths = [os.path.abspath(f"/{image.path.lstrip('/')}") for image in listed.values()]
    name_of = unique_naming(paths, os.path.commonpath([os.path.dirname(path) for path in paths]))
    return [
        Job(image.url, [name_of(path)], image.identity)
        for image, path in zip(listed.values(), paths, strict=True)
    ]
