"""``scenewise predict --engine ray``: images of a folder, a store or shards, labelled in actors.

The driver lists the images and hands out blocks of them; an actor reads, labels and writes its
images itself, so no image passes through Ray's object store. What an actor cannot read is counted
as failed; what it cannot write stops the command.
"""

import argparse
import json
import logging
import os
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from scenewise.apps.predict.image_results import result_files
from scenewise.apps.predict.jobs import Job, list_jobs, mark_written
from scenewise.apps.predict.outcome import Outcome
from scenewise.apps.predict.predictors import load
from scenewise.apps.predict.ranking import ranking
from scenewise.apps.predict.ray_actor import Actor
from scenewise.apps.predict.stores import Store, is_url
from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.exports.runtime import EngineSegmenter
from scenewise.files import write_json, write_text
from scenewise.inference.ray_data import actor_count, connected, map_in_actors

_BLOCKS = 16  # for each actor at least, so that all end at nearly the same time
_LARGEST = 64  # images in a block
_REFUSED = {  # options that do not suit many machines
    "format": "--format",
    "submission": "--submission",
    "ema_decay": "--ema-decay",
    "batch_size": "--batch-size",
    "bands": "--bands",
    "vectors": "--vectors",
    "shares": "--shares",
    "contact_sheet": "--contact-sheet",
}


def run(args: argparse.Namespace) -> None:
    """Label the images on a Ray cluster; report those that failed."""
    _check_options(args)
    jobs, left_out = list_jobs(args.images)
    model, common = load(args)
    console, outcome = Console(stderr=True), Outcome()
    confidences: list[tuple[float, float, str]] = []
    total = sum(len(job.names) for job in jobs)
    with connected() as ray:
        actors = actor_count(args.actors, args.gpus_per_actor)
        _write(args.out, "classes.json", model.classes.to_dict())  # fails early if it must
        shared = None if isinstance(model, EngineSegmenter) else ray.put(model)
        rows = _rows(ray, _marked(jobs, args, model.classes), actors, (shared, args, common))
        with Progress(console=console) as progress, closing(rows):
            for row in progress.track(rows, total, description="predict"):
                _count(row, outcome, console)
                if row["outcome"] != "failed":
                    confidences.append((row["mean"], row["lowest"], row["image"]))
    if sum(outcome.counts) != total:
        raise UserError(
            f"Ray returned results of {sum(outcome.counts)} of {total} images; run the same "
            "command again, which labels those that are missing"
        )
    if confidences:
        _write(args.out, "ranking.csv", ranking(confidences))
    message = outcome.message("images", args.out)
    if left_out:
        message += f"; left out {left_out} other files in the folders"
    console.print(message, soft_wrap=True)


def _check_options(args: argparse.Namespace) -> None:
    """Raise a UserError for options that do not suit this engine."""
    for name, option in _REFUSED.items():
        if getattr(args, name) not in (None, False):
            raise UserError(f"{option} is not for --engine ray; leave one of the two out")
    if args.raster == "yes":
        raise UserError("--raster yes is not for --engine ray; leave one of the two out")
    if args.backend == "auto":
        raise UserError("--backend auto is not for --engine ray; name the backend")
    if args.temporal != "none":
        raise UserError("--temporal is for videos, --engine ray for images; leave one of them out")
    if args.sure is not None and not 0 < args.sure <= 1:
        raise UserError(f"--sure must be above 0 and up to 1, not {args.sure:g}; correct it")
    if "WORLD_SIZE" in os.environ and os.environ["WORLD_SIZE"] != "1":
        raise UserError("torchrun and --engine ray both start processes; leave one of them out")
    if args.device is not None and (args.device == "cpu") == bool(args.gpus_per_actor):
        raise UserError(
            f"--device {args.device} contradicts --gpus-per-actor {args.gpus_per_actor:g}, which "
            "chooses the device; leave --device out"
        )


def _marked(jobs: list[Job], args: argparse.Namespace, classes: Classes) -> list[Job]:
    """The jobs with what is written; a store is listed once, local files are looked at later."""
    if not is_url(args.out):
        return jobs
    files = [file.as_posix() for file in result_files(args, Path(), "{}", classes)]
    return mark_written(jobs, files, Store(str(args.out)).names())


def _rows(
    ray: Any, jobs: list[Job], actors: int, arguments: tuple[Any, ...]
) -> Generator[dict[str, Any]]:
    """A row for each image; an actor takes a block of jobs at a time.

    Raises:
        UserError: Ray stopped.
    """
    gpus = arguments[1].gpus_per_actor
    size = max(1, min(_LARGEST, len(jobs) // (_BLOCKS * actors)))
    items = [{"job": json.dumps(vars(job))} for job in jobs]
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    before, context.enable_progress_bars = context.enable_progress_bars, False
    try:
        blocks = ray.data.from_items(items, override_num_blocks=-(-len(items) // size))
        yield from map_in_actors(blocks, Actor, arguments, actors, gpus).iter_rows()
    except ray.exceptions.RayError as error:
        raise UserError(f"{_reason(error)}; run the same command again to resume") from error
    finally:
        context.enable_progress_bars = before


def _reason(error: Exception) -> str:
    """One line of an error that an actor or Ray raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    ours = [line.partition("UserError: ")[2] for line in lines if "UserError: " in line]
    return ours[-1] if ours else f"Ray stopped ({lines[-1] if lines else type(error).__name__})"


def _count(row: dict[str, Any], outcome: Outcome, console: Console) -> None:
    """Count an image.

    Raises:
        UserError: its results cannot be written.
    """
    if row["outcome"] == "fatal":
        raise UserError(row["message"])
    if row["outcome"] == "failed":
        outcome.fail(row["image"], row["message"])
        return
    if row["message"]:
        console.print(row["message"], soft_wrap=True)
    outcome.done += row["outcome"] == "done"
    outcome.skipped += row["outcome"] == "skipped"


def _write(out: Path | str, name: str, value: Any) -> None:
    """Write a text, or a value as JSON, into the folder or the store."""
    if is_url(out):
        store = Store(str(out))
        (store.put_text if isinstance(value, str) else store.put_json)(value, name)
        return
    (write_text if isinstance(value, str) else write_json)(Path(out, name), value)
