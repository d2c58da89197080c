"""Labeller: labels images, videos and rasters one after the other, and counts the outcomes."""

import argparse
import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.progress import Progress
from torch import Tensor

from scenewise.apps.predict.image_results import ImageResults
from scenewise.apps.predict.inputs import is_video
from scenewise.apps.predict.manifest import Record, is_finished, result_record
from scenewise.apps.predict.outcome import Outcome
from scenewise.apps.predict.overlap import ahead, at_once, threads
from scenewise.data.images import read_image
from scenewise.data.rasters import is_raster
from scenewise.errors import UserError
from scenewise.inference.predictor import Prediction, layout_of
from scenewise.visualize import video

_LARGE = 1 << 24  # pixels from which an image is written before the next is labelled, for memory


@dataclass
class _Input:
    """A file on its way: its record, its pixels (C, H, W) if it is to be labelled, or why not."""

    file: Path
    name: str
    record: Record = field(default_factory=dict)
    pixels: Tensor | None = None
    finished: bool = False
    failure: str = ""


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

        With an accelerator, one image is labelled while the next is read and the one before is
        written. A network on the CPU has all cores busy; threads beside it make both slower.

        Raises:
            UserError: a result of an image cannot be written; that will not change for the next.
        """
        # One thread writes: files.py reads the umask by setting it.
        device = next(self.results.predictor.model.parameters()).device
        pool = at_once if device.type == "cpu" else partial(threads, 1)
        with pool() as reader, pool() as writer:
            writing: deque[Future[None]] = deque()
            for item in ahead(reader, self._read, items, 1):
                prediction = None if item.pixels is None else self._predict(item)
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

    def _predict(self, item: _Input) -> Prediction | None:
        """The prediction of an image that was read; None if it does not fit into the memory."""
        assert item.pixels is not None
        try:
            prediction, item.record = self.results.predict(item.pixels, item.record)
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
