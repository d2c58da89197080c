"""``scenewise predict``: label maps and overlays of images, overlays of videos."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from scenewise.apps.predict.distributed import Worker
from scenewise.apps.predict.inputs import Inputs, is_video
from scenewise.apps.predict.labelling import Labelled, write_for_tool
from scenewise.apps.predict.manifest import Record, is_finished, model_record, result_record
from scenewise.apps.predict.ranking import CONFIDENCE, summary, write_ranking
from scenewise.apps.predict.submission import check_server, save_submission, submission_file
from scenewise.data.images import read_image
from scenewise.errors import UserError
from scenewise.exports.runtime import is_exported, load_exported
from scenewise.files import write_json
from scenewise.inference.auto_window import AutoWindowPredictor
from scenewise.inference.predictor import Predictor, best_device, display, layout_of
from scenewise.inference.sliding_window import Size
from scenewise.models.checkpoints import load_model
from scenewise.models.optimize.fuse import for_inference
from scenewise.visualize import video
from scenewise.visualize.overlay import overlay, save_image, save_labels

_MAX_NAMED = 20  # failures that are named one by one
_SET_BY_PROTOCOL = ("scales", "flip", "window", "stride", "merge")
# Options that change the content of a result; its record holds them.
_RECORDED = (*_SET_BY_PROTOCOL, "protocol", "backend", "opacity", "temporal", "ema_decay", "sure")


def run(args: argparse.Namespace) -> None:
    """Label this process's share of the images and videos; report those that failed."""
    worker, inputs = Worker.from_environment(), Inputs(args.images)
    decay = _ema_decay(args, inputs.first_video())
    _check_labelling(args, inputs.first_video())
    console = Console(stderr=True)
    plain, common = _predictor(args)
    predictor = AutoWindowPredictor(plain, lambda note: console.print(note, soft_wrap=True))
    if args.submission:
        check_server(args.submission, predictor.model.classes)
    with Progress(console=console, disable=worker.rank > 0) as progress:
        job = _Job(args, predictor, common, decay, progress)
        total = len(range(worker.rank, len(inputs), worker.world_size))
        for file, name in progress.track(worker.share(inputs), total, description="predict"):
            job.label(file, name)
    counts = worker.sum_counts((job.done, job.skipped, job.failed))  # waits for all processes
    if worker.rank == 0:
        write_json(args.out / "classes.json", predictor.model.classes.to_dict())
    if worker.rank == 0 or not worker.is_connected:  # unconnected ones: the last sees all results
        _write_together(args, job, inputs)
    _report(console, worker, inputs, job, counts)


@dataclass
class _Job:
    """The options of the command, and what became of the files of this process."""

    args: argparse.Namespace
    predictor: AutoWindowPredictor
    common: Record
    decay: float
    progress: Progress
    done: int = 0
    skipped: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)  # the first ones

    def label(self, file: Path, name: str) -> None:
        """Label one image or video, unless an earlier run did; count the outcome.

        Raises:
            UserError: a result of an image cannot be written; that will not change for the next.
        """
        try:
            record = result_record(file, self.common)
            if not self.args.again and is_finished(self._results(file, name), record):
                self.skipped += 1
                return
            if is_video(file):
                self._write_video(file, name, json.dumps(record))
                self.done += 1
                return
            image = read_image(file, layout_of(self.predictor.model))  # (C, H, W)
            labels, confidence = self.predictor(image)  # (H, W), int64 and float
        except UserError as error:
            self._fail(file, error)
            return
        if self.args.sure is not None:
            labels[confidence < self.args.sure] = self.predictor.model.classes.ignore_index
        record = {**record, CONFIDENCE: summary(confidence)}
        if self.predictor.side is not None:
            record = {**record, "window": self.predictor.side}
        self._write(image, labels, name, json.dumps(record))
        self.done += 1

    def _results(self, file: Path, name: str) -> list[Path]:
        """The files written for an image or video; the last one is written last."""
        overlays, args = self.args.out / "overlays", self.args
        if is_video(file):
            return [overlays / f"{name}.mp4"]
        results = [] if args.no_overlay else [overlays / f"{name}.jpg"]
        if args.submission:
            results.append(submission_file(args.submission, args.out / "submission", name))
        return [*results, args.out / "labels" / f"{name}.png"]

    def _write(self, image: Tensor, labels: Tensor, name: str, note: str) -> None:
        args, classes = self.args, self.predictor.model.classes
        if not args.no_overlay:
            drawn = overlay(display(image, self.predictor.model), labels, classes, args.opacity)
            save_image(args.out / "overlays" / f"{name}.jpg", drawn)
        if args.submission:
            save_submission(args.submission, args.out / "submission", name, labels)
        save_labels(args.out / "labels" / f"{name}.png", labels, classes, note)

    def _write_video(self, file: Path, name: str, note: str) -> None:
        bar = self.progress.add_task(file.name, total=None)
        video.overlay_video(
            self.predictor,
            file,
            self.args.out / "overlays" / f"{name}.mp4",
            decay=self.decay,
            opacity=self.args.opacity,
            progress=lambda done, total: self.progress.update(bar, completed=done, total=total),
            note=note,
        )

    def _fail(self, file: Path, error: UserError) -> None:
        self.failed += 1
        if len(self.failures) < _MAX_NAMED:
            named = str(file) in str(error)
            self.failures.append(str(error) if named else f"'{file}': {error}")


def _write_together(args: argparse.Namespace, job: _Job, inputs: Inputs) -> None:
    """Write what is about all images: the ranking, and the files of a labelling tool."""
    results = []
    for file, name in inputs:
        labels = args.out / "labels" / f"{name}.png"
        if is_video(file) or not file.exists():
            continue
        if is_finished([labels], result_record(file, job.common)):
            results.append(Labelled(file, name, labels))
    if results:
        write_ranking(args.out / "ranking.csv", results)
    if results and args.format is not None:
        classes = job.predictor.model.classes
        write_for_tool(args.format, args.out / args.format, results, classes)


def _report(
    console: Console, worker: Worker, inputs: Inputs, job: _Job, counts: Sequence[int]
) -> None:
    done, skipped, failed = counts
    kinds = "images and videos" if inputs.first_video() else "images"
    message = f"{done} of {done + skipped + failed} {kinds} labelled in '{job.args.out}'"
    if skipped:
        message += f", {skipped} skipped that were finished before"
    if job.failures:
        more = job.failed - len(job.failures)
        rest = f"; and {more} more" if more else ""
        raise UserError(f"{message}; {'; '.join(job.failures)}{rest}")
    if inputs.left_out:
        message += f"; left out {inputs.left_out} other files in the folders"
    if worker.world_size > 1 and not worker.is_connected:
        message = f"process {worker.rank} of {worker.world_size}: {message}"
    if worker.rank == 0 or not worker.is_connected:
        console.print(message, soft_wrap=True)


def _check_labelling(args: argparse.Namespace, first_video: Path | None) -> None:
    """Raise a UserError unless the options for labelling tools fit the inputs."""
    if first_video is not None and (args.format is not None or args.sure is not None):
        raise UserError(f"--format and --sure are for images; leave out video '{first_video}'")
    if args.sure is not None and not 0 < args.sure <= 1:
        raise UserError(f"--sure must be above 0 and up to 1, not {args.sure:g}; correct it")
    if args.sure is not None and args.submission:
        raise UserError("--sure leaves pixels without a class, which servers refuse; leave it out")


def _ema_decay(args: argparse.Namespace, first_video: Path | None) -> float:
    """The decay of --temporal, after checking that the options fit the inputs."""
    if args.ema_decay is not None and args.temporal == "none":
        raise UserError("--ema-decay needs --temporal ema; add it or leave the decay out")
    if args.temporal != "none" and first_video is None:
        raise UserError("--temporal is for videos, and no input is one; leave it out")
    if first_video is not None and args.no_overlay:
        raise UserError(f"of video '{first_video}' only the overlay is written; drop --no-overlay")
    if first_video is not None:
        video.check_available()
    if args.temporal == "none":
        return 0.0
    decay = 0.6 if args.ema_decay is None else float(args.ema_decay)
    video.check_decay(decay)
    return decay


def _predictor(args: argparse.Namespace) -> tuple[Predictor, Record]:
    """The predictor, and the part of the record that all its results share."""
    exported = is_exported(args.model)
    torch_runs = args.backend == "torch" and not exported
    _check_options(args, torch_runs)
    device = best_device(args.device if torch_runs else "cpu")
    model = load_exported(args.model) if exported else load_model(args.model)
    common = model_record(model, args.model, {name: getattr(args, name) for name in _RECORDED})
    if torch_runs:
        model = for_inference(model.to(device))
    if args.compile:  # setattr, because a type checker refuses to assign a method
        setattr(model, "low_res", torch.compile(model.low_res, dynamic=True))  # noqa: B010
    if args.protocol is not None:
        return Predictor.from_protocol(model, args.protocol, device, args.backend), common
    predictor = Predictor(
        model,
        scales=args.scales or (1.0,),
        flip=args.flip,
        window=_size(args.window, "--window"),
        stride=_size(args.stride, "--stride"),
        merge=args.merge or "softmax",
        device=device,
        backend=args.backend,
    )
    return predictor, common


def _check_options(args: argparse.Namespace, torch_runs: bool) -> None:
    """Raise a UserError for options that exclude each other."""
    if not torch_runs and args.device not in (None, "cpu"):
        raise UserError(f"--device {args.device} is for --backend torch; leave one of the two out")
    if not torch_runs and args.compile:
        raise UserError("--compile is for --backend torch; leave one of the two out")
    for option in _SET_BY_PROTOCOL:
        if args.protocol is not None and getattr(args, option):
            raise UserError(f"--protocol sets --{option} itself; leave one of the two out")


def _size(sides: list[int] | None, option: str) -> int | Size | None:
    if sides is None or len(sides) == 1:
        return sides[0] if sides else None
    if len(sides) != 2:
        raise UserError(f"{option} takes a side, or a height and a width, not {len(sides)} numbers")
    return sides[0], sides[1]
