"""``scenewise predict``: label maps and overlays of images, overlays of videos."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from scenewise.apps.predict.class_shares import write_shares
from scenewise.apps.predict.distributed import Worker
from scenewise.apps.predict.image_results import (
    GEOJSON,
    ImageResults,
    image_options,
    result_files,
)
from scenewise.apps.predict.inputs import Inputs, is_video
from scenewise.apps.predict.labeller import Labeller
from scenewise.apps.predict.manifest import Record, is_finished, result_record
from scenewise.apps.predict.predictors import load, predictor_of
from scenewise.apps.predict.ranking import Labelled, write_ranking
from scenewise.data.images import read_image
from scenewise.data.rasters import is_raster
from scenewise.errors import UserError
from scenewise.files import write_json
from scenewise.inference.auto_window import AutoWindowPredictor
from scenewise.inference.predictor import layout_of
from scenewise.models.segmenter import Segmenter
from scenewise.visualize import video

_MOST_SHOWN = 200  # images of --contact-sheet


def run(args: argparse.Namespace) -> None:
    """Label the images and videos with the engine that the options ask for."""
    if args.engine == "ray":
        from scenewise.apps.predict import ray_engine

        ray_engine.run(args)
        return
    _check_engine(args)
    _run(args)


def _run(args: argparse.Namespace) -> None:
    """Label this process's share of the images and videos; report those that failed."""
    worker, inputs = Worker.from_environment(), Inputs(args.images)
    decay = _ema_decay(args, inputs.first_video())
    _check_labelling(args, inputs.first_video())
    console = Console(stderr=True)
    model, common = load(args)

    def report(note: str) -> None:
        console.print(note, soft_wrap=True)

    image = None
    if args.backend == "auto":
        image = _first_image(worker.share(inputs), args, model, common)
    predictor = AutoWindowPredictor(predictor_of(model, args, image, report), report)
    if args.submission:
        from scenewise.apps.predict.submission import check_server

        check_server(args.submission, predictor.model.classes)
    with Progress(console=console, disable=worker.rank > 0) as progress:
        job = Labeller(args, ImageResults(args, predictor, args.out), common, decay, progress)
        total = len(range(worker.rank, len(inputs), worker.world_size))
        results = job.label(worker.share(inputs))
        for _ in progress.track(results, total, description="predict"):
            pass
    counts = worker.sum_counts(job.outcome.counts)  # waits for all processes
    if worker.rank == 0:
        write_json(args.out / "classes.json", predictor.model.classes.to_dict())
    if worker.rank == 0 or not worker.is_connected:  # unconnected ones: the last sees all results
        _write_together(args, job, inputs)
    _report(console, worker, inputs, job, counts)


def _first_image(
    items: Iterable[tuple[Path, str]], args: argparse.Namespace, model: Segmenter, common: Record
) -> Tensor | None:
    """The first image (C, H, W) that will be labelled; None without one."""
    for file, name in items:
        if is_video(file) or is_raster(file, args.raster):
            continue
        try:
            files = result_files(args, args.out, name, model.classes)
            if args.again or not is_finished(files, result_record(file, common)):
                return read_image(file, layout_of(model))
        except UserError:  # it is named when its turn comes
            continue
    return None


def _write_together(args: argparse.Namespace, job: Labeller, inputs: Inputs) -> None:
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
    model = job.results.predictor.model
    if results and args.shares:
        write_shares(args.out / "shares.csv", results, model.classes)
    if results and args.contact_sheet is not None:
        from scenewise.apps.predict.least_certain import write_least_certain

        write_least_certain(args.out / "least_certain.png", results, args.contact_sheet, model)
    if results and args.format not in (None, GEOJSON):  # which is written with each image
        from scenewise.apps.predict.labelling import write_for_tool

        write_for_tool(args.format, args.out / args.format, results, model.classes)


def _report(
    console: Console, worker: Worker, inputs: Inputs, job: Labeller, counts: Sequence[int]
) -> None:
    kinds = "images and videos" if inputs.first_video() else "images"
    message = job.outcome.message(kinds, job.args.out, counts)
    if inputs.left_out:
        message += f"; left out {inputs.left_out} other files in the folders"
    if worker.world_size > 1 and not worker.is_connected:
        message = f"process {worker.rank} of {worker.world_size}: {message}"
    if worker.rank == 0 or not worker.is_connected:
        console.print(message, soft_wrap=True)


def _check_engine(args: argparse.Namespace) -> None:
    """Raise a UserError for options of ``--engine ray`` without it."""
    for word in (*args.images, args.out):
        if "://" in str(word):
            raise UserError(f"'{word}' is in a store; give --engine ray, or a local folder")
    if args.batch_size is not None and args.batch_size < 1:
        raise UserError(f"--batch-size takes 1 image or more, not {args.batch_size}; correct it")
    if args.actors is not None or args.gpus_per_actor:
        raise UserError("--actors and --gpus-per-actor are for --engine ray; add it")


def _check_labelling(args: argparse.Namespace, first_video: Path | None) -> None:
    """Raise a UserError unless the options for labelling tools fit the inputs."""
    _check_outputs(args, first_video)
    if first_video is not None and (args.format is not None or args.sure is not None):
        raise UserError(f"--format and --sure are for images; leave out video '{first_video}'")
    if args.sure is not None and not 0 < args.sure <= 1:
        raise UserError(f"--sure must be above 0 and up to 1, not {args.sure:g}; correct it")
    if args.sure is not None and args.submission:
        raise UserError("--sure leaves pixels without a class, which servers refuse; leave it out")


def _check_outputs(args: argparse.Namespace, first_video: Path | None) -> None:
    """Raise a UserError unless the options for further files fit the inputs."""
    given = image_options(args)
    if first_video is not None and given:
        raise UserError(f"{given[0]} is for images; leave out video '{first_video}'")
    count = args.contact_sheet
    if count is not None and not 1 <= count <= _MOST_SHOWN:
        raise UserError(f"--contact-sheet takes 1 to {_MOST_SHOWN} images, not {count}; correct it")


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
