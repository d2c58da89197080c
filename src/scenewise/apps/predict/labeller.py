"""Labeller: labels images, videos and rasters one after the other, and counts the outcomes."""

import argparse
import json
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.progress import Progress
from torch import Tensor

from scenewise.apps.predict.image_results import ImageResults
from scenewise.apps.predict.inputs import is_video
from scenewise.apps.predict.manifest import Record, is_finished, result_record
from scenewise.apps.predict.outcome import Outcome
from scenewise.apps.predict.overlap import at_once, next_ahead, threads
from scenewise.apps.predict.score_files import needs_scores
from scenewise.data.images import read_image
from scenewise.data.rasters import is_raster
from scenewise.errors import UserError
from scenewise.inference.batches import alike
from scenewise.inference.predictor import Prediction, layout_of
from scenewise.visualize import video

_LARGE = 1 << 24  # pixels from which an image is written before the next is labelled, for memory
_BATCH = 8  # images of equal size that an accelerator labels together, if not given
_BATCH_PIXELS = 1 << 22  # of such a batch: larger images keep an accelerator busy with fewer


@dataclass
class _Input:
    """A file on its way: its record, its pixels (C, H, W) if it is to be labelled, or why not."""

    file: Path
    name: str
    record: Record = field(default_factory=dict)
    pixels: Tensor | None = None
    finished: bool = False
    failure: str = ""


def _kind(item: _Input) -> Hashable:
    """Equal for images that can be labelled together; None for all else."""
    return None if item.pixels is None else (item.pixels.shape, item.pixels.dtype)


@dataclass
class Labeller:
    """The options of the command, and what became of the files of this process."""

    args: argparse.Namespace
    results: ImageResults
    common: Record
    decay: float
    progress: Progress
    outcome: Outcome = field(default_factory=Outcome)

    def label(self, items: Iterable[tuple[Path, str]]) -> Iterator[None]:
        """Label the files that an earlier run did not, in order; count and yield each outcome.

        With an accelerator, consecutive images of equal size are labelled together, while the next
        are read and those before are written. A network on the CPU has all cores busy: threads
        beside it make both slower, and larger batches gain nothing.

        Raises:
            UserError: a result of an image cannot be written; that will not change for the next.
        """
        # One thread writes: files.py reads the umask by setting it.
        pool = at_once if self._on_cpu else partial(threads, 1)
        with pool() as reader, pool() as writer:
            writing: deque[Future[None]] = deque()
            batches = alike(map(self._read, items), _kind, self._batch_size)
            for item, known in self._together(next_ahead(reader, batches)):
                prediction = None if item.pixels is None else self._predict(item, known)
                if item.pixels is None or prediction is None:
                    yield from self._written(writing, 0)
                    self._finish(item)
                    yield
                    continue
                arguments = (item.pixels, prediction, item.name, item.record)
                writing.append(writer.submit(self.results.write, *arguments))
                large = prediction.labels.numel() > _LARGE
                yield from self._written(writing, 0 if large else 1)
            yield from self._written(writing, 0)

    @property
    def _on_cpu(self) -> bool:
        return next(self.results.predictor.model.parameters()).device.type == "cpu"

    def _batch_size(self, item: _Input) -> int:
        """How many images like this one are labelled together."""
        if item.pixels is None or not self.results.predictor.predictor.at_once:
            return 1
        if needs_scores(self.args):  # a batch does not keep them
            return 1
        if self.args.batch_size is not None:
            return int(self.args.batch_size)
        fitting = _BATCH_PIXELS // item.pixels[0].numel()
        return 1 if self._on_cpu else max(1, min(_BATCH, fitting))

    def _together(
        self, batches: Iterable[list[_Input]]
    ) -> Iterator[tuple[_Input, Prediction | None]]:
        """The files, and the predictions of those that were labelled with others."""
        for batch in batches:
            known: Sequence[Prediction | None] | None = None
            if len(batch) > 1:
                images = [item.pixels for item in batch if item.pixels is not None]
                with suppress(UserError):  # the image that raises it is named when it is alone
                    known = self.results.predictor.batch(images)
            yield from zip(batch, known or [None] * len(batch), strict=True)

    def _read(self, item: tuple[Path, str]) -> _Input:
        """What is to be done with a file; an image is read."""
        file, name = item
        result = _Input(file, name)
        try:
            result.record = result_record(file, self.common)
            if is_video(file) or not is_raster(file, self.args.raster):
                done = not self.args.again and is_finished(self._files(file, name), result.record)
                result.finished = done
                if not done and not is_video(file):
                    result.pixels = read_image(file, layout_of(self.results.predictor.model))
        except UserError as error:
            result.failure = str(error)
        return result

    def _predict(self, item: _Input, known: Prediction | None) -> Prediction | None:
        """The prediction of an image that was read; None if it does not fit into the memory."""
        assert item.pixels is not None
        try:
            prediction, item.record = self.results.predict(item.pixels, item.record, known)
        except UserError as error:
            item.failure = str(error)
            return None
        return prediction

    def _written(self, writing: deque[Future[None]], count: int) -> Iterator[None]:
        """Wait until at most ``count`` images are being written; count the others."""
        while len(writing) > count:
            writing.popleft().result()
            self.outcome.done += 1
            yield

    def _finish(self, item: _Input) -> None:
        """Label a video or raster, or count why there is nothing to do."""
        if item.failure:
            self.outcome.fail(item.file, item.failure)
        elif item.finished:
            self.outcome.skipped += 1
        else:
            try:
                self._label_file(item.file, item.name, item.record)
            except UserError as error:
                self.outcome.fail(item.file, str(error))

    def _label_file(self, file: Path, name: str, record: Record) -> None:
        if is_video(file):
            self._write_video(file, name, json.dumps(record))
            self.outcome.done += 1
        else:
            self._label_raster(file, name, record)

    def _label_raster(self, file: Path, name: str, record: Record) -> None:
        from scenewise.apps.predict.raster_results import RasterResults

        rasters = RasterResults(self.args, self.results.predictor, self.args.out)
        record = rasters.record(record)
        if not self.args.again and is_finished(rasters.files(name), record):
            self.outcome.skipped += 1
            return
        bar = self.progress.add_task(file.name, total=None)
        note = rasters.predict(
            file,
            name,
            record,
            lambda step, done, total: self.progress.update(
                bar, completed=done, total=total, description=f"{file.name}: {step}"
            ),
        )
        if note:
            self.progress.console.print(note, soft_wrap=True)
        self.outcome.done += 1

    def _files(self, file: Path, name: str) -> list[Path]:
        """The files written for an image or video; the last one is written last."""
        if is_video(file):
            return [self.args.out / "overlays" / f"{name}.mp4"]
        return self.results.files(name)

    def _write_video(self, file: Path, name: str, note: str) -> None:
        bar = self.progress.add_task(file.name, total=None)
        video.overlay_video(
            self.results.predictor,
            file,
            self.args.out / "overlays" / f"{name}.mp4",
            decay=self.decay,
            opacity=self.args.opacity,
            progress=lambda done, total: self.progress.update(bar, completed=done, total=total),
            note=note,
        )
