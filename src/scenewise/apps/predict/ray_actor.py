"""Actor: the process of ``--engine ray`` that holds the network, reads, labels and writes."""

import argparse
import io
import json
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from scenewise.apps.predict.image_results import ImageResults
from scenewise.apps.predict.jobs import Job
from scenewise.apps.predict.manifest import Record, holds, result_record, stored_record
from scenewise.apps.predict.overlap import ahead, threads
from scenewise.apps.predict.predictors import load, predictor_of
from scenewise.apps.predict.ranking import CONFIDENCE
from scenewise.apps.predict.stores import Store, is_url
from scenewise.data.images import decode_image, read_image
from scenewise.data.rasters import has_coordinates, is_raster
from scenewise.data.shards import read_shard
from scenewise.errors import UserError
from scenewise.inference.auto_window import AutoWindowPredictor
from scenewise.inference.predictor import Prediction, layout_of

_AHEAD = 4  # images that are read while one is labelled, and results that wait for being written
_Row = dict[str, Any]


@dataclass
class _Image:
    """An image on its way: what is known of it, what was read, or why that failed.

    Args:
        path: for messages and the ranking.
        name: of its results.
        identity: see :class:`Job`.
        written: whether an earlier run wrote its results; None if that is to be looked up.
        content: its file, if it comes from a shard.
        record: of its results.
        pixels: (C, H, W), once it is read.
        failure: why it cannot be read.
    """

    path: str
    name: str
    identity: list[Any] | None
    written: bool | None
    content: bytes | None = None
    record: Record | None = None
    pixels: Tensor | None = None
    failure: str = ""


class Actor:
    """Labels blocks of jobs.

    Args:
        model: a reference to the network in Ray's object store; None loads it from the options.
        args: the options of the command.
        common: what the records of all results share.
    """

    def __init__(self, model: Any, args: argparse.Namespace, common: Record) -> None:
        import ray

        args = argparse.Namespace(**vars(args))
        args.device = args.device if args.gpus_per_actor else "cpu"
        network = load(args)[0] if model is None else ray.get(model)
        self.notes: list[str] = []  # of the image that is labelled
        predictor = AutoWindowPredictor(predictor_of(network, args), self.notes.append)
        self.args, self.common = args, common
        self.store = Store(args.out) if is_url(args.out) else None
        self.results = ImageResults(args, predictor, Path(args.out))

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """A row for each image of the jobs, which are JSON."""
        jobs = [Job(**json.loads(text)) for text in batch["job"]]
        with tempfile.TemporaryDirectory() as folder:  # for results on their way to a store
            if self.store is not None:
                self.results = replace(self.results, out=Path(folder))
            rows = list(self._label(jobs))
        return {key: [row[key] for row in rows] for key in rows[0]}

    def _label(self, jobs: Iterable[Job]) -> Iterator[_Row]:
        """Label and write; reading, labelling and writing overlap."""
        # One thread writes: files.py reads the umask by setting it.
        with threads(_AHEAD) as readers, threads(1) as writer:
            waiting: deque[tuple[_Row, Future[None]]] = deque()
            for image in ahead(readers, self._read, self._images(jobs), _AHEAD):
                if image.pixels is None:
                    yield _row(image)
                    continue
                try:
                    prediction, record = self.results.predict(image.pixels, image.record or {})
                except UserError as error:
                    image.failure = str(error)
                    yield _row(image)
                    continue
                image.record = record
                row = _row(image, message=" ".join(self.notes))
                self.notes.clear()
                waiting.append((row, writer.submit(self._write, image, prediction)))
                if len(waiting) > _AHEAD:
                    yield _when_written(*waiting.popleft())
            for row, future in waiting:
                yield _when_written(row, future)

    def _images(self, jobs: Iterable[Job]) -> Iterator[_Image]:
        for job in jobs:
            written: Sequence[bool | None] = job.written or [None] * len(job.names)
            if not job.is_shard:
                yield _Image(job.source, job.names[0], job.identity, written[0])
                continue
            images = [
                _Image(f"{job.source}/{name}", name, [*(job.identity or []), k], written[k])
                for k, name in enumerate(job.names)
            ]
            if all(self._finished(image) for image in images):  # the shard need not be read
                yield from images
            else:
                yield from _from_shard(job.source, images)

    def _read(self, image: _Image) -> _Image:
        """Read an image, unless its results exist: then it has a record and no pixels."""
        try:
            if image.failure or self._finished(image):
                return image
            layout = layout_of(self.results.predictor.model)
            content = image.content
            if content is None and is_url(image.path):
                content = Store(image.path).read()
            self._check_no_raster(image.path, content)
            image.pixels = (
                read_image(image.path, layout)
                if content is None
                else decode_image(content, image.path, layout)
            )
        except UserError as error:
            image.failure = str(error)
        image.content = None
        return image

    def _check_no_raster(self, path: str, content: bytes | None) -> None:
        """Raise a UserError for an image with coordinates, unless --raster no drops them."""
        if self.args.raster == "no":
            return
        if is_raster(Path(path)) if content is None else has_coordinates(io.BytesIO(content)):
            raise UserError(
                f"'{path}' is a raster; label it without --engine ray, which keeps its "
                "coordinates, or give --raster no, which drops them"
            )

    def _finished(self, image: _Image) -> bool:
        """Whether an earlier run wrote its results; sets the record.

        Raises:
            UserError: the local image is gone.
        """
        if image.identity is None:
            image.record = result_record(Path(image.path), self.common)
        else:
            image.record = {"image": image.identity, **self.common}
        if self.args.again:
            return False
        stored = self._stored(image)
        finished = holds(stored, image.record) and CONFIDENCE in stored
        if finished:
            image.record = stored
        return finished

    def _stored(self, image: _Image) -> dict[str, Any]:
        """The record in the results of an image; empty if some do not exist."""
        files = self.results.files(image.name)
        if self.store is None:
            return stored_record(files[-1]) if all(file.is_file() for file in files) else {}
        if not image.written:
            return {}
        name = files[-1].relative_to(self.results.out).as_posix()
        try:
            return stored_record(io.BytesIO(self.store.read(name, head=True)))
        except UserError:
            return {}  # it is labelled again

    def _write(self, image: _Image, prediction: Prediction) -> None:
        assert image.pixels is not None
        assert image.record is not None
        self.results.write(image.pixels, prediction, image.name, image.record)
        if self.store is not None:
            for file in self.results.files(image.name):
                self.store.put(file, file.relative_to(self.results.out).as_posix())
                file.unlink()


def _from_shard(url: str, images: list[_Image]) -> Iterator[_Image]:
    """The images with their contents; after an error, the others with that."""
    done = 0
    try:
        for image, sample in zip(images, read_shard(url, len(images)), strict=True):
            image.content = sample.image
            yield image
            done += 1
    except UserError as error:
        for image in images[done:]:
            image.failure = str(error)
            yield image


def _row(image: _Image, message: str = "") -> _Row:
    """What the driver gets: the outcome is done, skipped or failed."""
    outcome = "failed" if image.failure else "skipped" if image.pixels is None else "done"
    nothing = [float("nan")] * 2
    mean, lowest = nothing if image.failure else (image.record or {}).get(CONFIDENCE, nothing)
    return {
        "image": image.path,
        "outcome": outcome,
        "message": image.failure or message,
        "mean": float(mean),
        "lowest": float(lowest),
    }


def _when_written(row: _Row, writing: Future[None]) -> _Row:
    """The row; its outcome is fatal if the results could not be written."""
    try:
        writing.result()
    except UserError as error:
        return {**row, "outcome": "fatal", "message": str(error)}
    return row
