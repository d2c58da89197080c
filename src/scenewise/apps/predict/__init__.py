"""``scenewise predict``: labels and overlays of pictures, overlays of videos."""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from scenewise.apps.predict.distributed import Processes
from scenewise.apps.predict.inputs import Listing, is_video
from scenewise.apps.predict.manifest import Record, is_finished, origin, record
from scenewise.apps.predict.submission import Server, check_server, save_submission, submission_file
from scenewise.classes import Classes
from scenewise.data.images import read_image
from scenewise.errors import UserError
from scenewise.exports.runtime import Backend, is_exported, load_exported
from scenewise.files import write_json
from scenewise.inference.auto_window import AutoWindowPredictor
from scenewise.inference.predictor import Merge, Predictor, best_device
from scenewise.inference.protocols import PROTOCOLS
from scenewise.inference.sliding_window import Size
from scenewise.models.checkpoints import load_model
from scenewise.models.optimize.fuse import for_inference
from scenewise.visualize import video
from scenewise.visualize.overlay import overlay, save_image, save_labels

NAMED = 20  # failures that are told one by one
# Options that change what is written; the record of a result has them.
DECISIVE = (
    *("scales", "flip", "window", "stride", "merge", "protocol", "backend", "opacity"),
    *("temporal", "ema_decay"),
)
EXAMPLES = """\
writes OUT/labels/NAME.png (one byte a pixel, the class id), OUT/overlays/NAME.jpg and
OUT/classes.json. NAME is the picture's name without suffix; where two pictures share it, the
suffix is kept, or the folders.

A video (mp4, avi, mov, mkv, webm, gif) gives OUT/overlays/NAME.mp4 alone: no label files for its
frames, no sound. --temporal ema averages the scores over time: s_t = d s_(t-1) + (1 - d) p_t, with
d of --ema-decay. Videos need the extra: pip install 'scenewise[video]'.

Started again, it goes on where it was stopped: a result is skipped if picture, model, options and
version are those of its record, which lies in the result itself; --again does it anew. Several
processes (torchrun, or RANK and WORLD_SIZE) take every so many-th picture each.

examples:
  scenewise predict street.png --model RUN_FOLDER --out predictions
  scenewise predict pictures/ --model RUN_FOLDER --out predictions --window 768 --flip
  scenewise predict 'pictures/**/*.jpg' --model RUN_FOLDER --out predictions --scales 0.75 1 1.25
  scenewise predict pictures/ --model RUN_FOLDER --out predictions --protocol danet_ss
  scenewise predict drive.mp4 --model RUN_FOLDER --out predictions --temporal ema
  scenewise predict pictures/ --model RUN_FOLDER --out predictions --backend openvino
  scenewise predict pictures/ --model danet.onnx --out predictions
  scenewise predict leftImg8bit/test --model RUN_FOLDER --out predictions --submission cityscapes
  torchrun --nproc-per-node 2 -m scenewise predict pictures/ --model RUN_FOLDER --out predictions
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``scenewise predict``."""
    parser.epilog = EXAMPLES
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="a picture or video, a folder, or a pattern"
    )
    parser.add_argument(
        "--model",
        required=True,
        help="model folder, run folder, checkpoint, or exported .onnx or .xml",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--scales", type=float, nargs="+", metavar="S", help="factors on the size; default 1"
    )
    parser.add_argument("--flip", action="store_true", help="average with the mirror image")
    parser.add_argument(
        "--window", type=int, nargs="+", metavar="PIXELS", help="side, or height and width"
    )
    parser.add_argument(
        "--stride", type=int, nargs="+", metavar="PIXELS", help="default two thirds of the window"
    )
    parser.add_argument("--merge", choices=get_args(Merge), help="what is averaged; softmax")
    parser.add_argument(
        "--protocol", metavar="NAME", help=f"a published evaluation: {', '.join(PROTOCOLS)}"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default an accelerator if any")
    parser.add_argument(
        "--backend",
        choices=get_args(Backend),
        default="torch",
        help="what runs the network; onnxruntime and openvino, on the CPU, are converted to first",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="with torch.compile: minutes at first, for many pictures",
    )
    parser.add_argument("--no-overlay", action="store_true", help="write the labels only")
    parser.add_argument(
        "--submission",
        choices=get_args(Server),
        help="also write OUT/submission, as that test server takes it",
    )
    parser.add_argument(
        "--again", action="store_true", help="also what was finished by an earlier run"
    )
    parser.add_argument("--opacity", type=float, default=0.5, help="of the overlay; 0..1")
    parser.add_argument(
        "--temporal", choices=("none", "ema"), default="none", help="of videos: average over time"
    )
    parser.add_argument("--ema-decay", type=float, metavar="D", help="0 to below 1; default 0.6")


@dataclass
class Tally:
    """What became of the pictures and videos of this process; the first failures are named."""

    done: int = 0
    skipped: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)

    def fail(self, file: Path, error: UserError) -> None:
        """Count a file that could not be read or predicted."""
        self.failed += 1
        if len(self.failures) < NAMED:
            named = str(file) in str(error)
            self.failures.append(str(error) if named else f"'{file}': {error}")


def run(args: argparse.Namespace) -> None:
    """Label this process's share of the pictures and videos; tell which ones could not be read."""
    processes, listing = Processes.from_environment(), Listing(args.images)
    decay = _decay(args, listing.first_video())
    console, tally = Console(stderr=True), Tally()
    plain, common = _predictor(args)
    predictor = AutoWindowPredictor(plain, lambda note: console.print(note, soft_wrap=True))
    if args.submission:
        check_server(args.submission, predictor.model.classes)
    own = len(range(processes.rank, len(listing), processes.size))
    with Progress(console=console, disable=processes.rank > 0) as progress:
        for file, name in progress.track(processes.share(listing), own, description="predict"):
            try:
                wanted = record(file, common)
                if not args.again and is_finished(_results(file, name, args), wanted):
                    tally.skipped += 1
                    continue
                if is_video(file):
                    _video(predictor, file, name, decay, args, progress, json.dumps(wanted))
                    tally.done += 1
                    continue
                image = read_image(file)
                labels = predictor(image).labels
            except UserError as error:
                tally.fail(file, error)
                continue
            if predictor.side is not None:
                wanted = {**wanted, "window": predictor.side}
            _write(image, labels, predictor.model.classes, name, args, json.dumps(wanted))
            tally.done += 1
    if processes.rank == 0:
        write_json(args.out / "classes.json", predictor.model.classes.to_dict())
    _tell(console, processes, listing, tally, args.out)


def _tell(
    console: Console, processes: Processes, listing: Listing, tally: Tally, out: Path
) -> None:
    done, skipped, failed = processes.sums((tally.done, tally.skipped, tally.failed))
    what = "pictures and videos" if listing.first_video() else "pictures"
    told = f"{done} of {done + skipped + failed} {what} labelled in '{out}'"
    if skipped:
        told += f", {skipped} skipped that were finished before"
    if tally.failures:
        more = tally.failed - len(tally.failures)
        rest = f"; and {more} more" if more else ""
        raise UserError(f"{told}; {'; '.join(tally.failures)}{rest}")
    if listing.left_out:
        told += f"; left out {listing.left_out} other files in the folders"
    if processes.size > 1 and not processes.together:
        told = f"process {processes.rank} of {processes.size}: {told}"
    if processes.rank == 0 or not processes.together:
        console.print(told, soft_wrap=True)


def _results(file: Path, name: str, args: argparse.Namespace) -> list[Path]:
    """The files that stand for a picture or video; the last one is written last."""
    overlays = args.out / "overlays"
    if is_video(file):
        return [overlays / f"{name}.mp4"]
    results = [] if args.no_overlay else [overlays / f"{name}.jpg"]
    if args.submission:
        results.append(submission_file(args.submission, args.out / "submission", name))
    return [*results, args.out / "labels" / f"{name}.png"]


def _write(
    image: Tensor, labels: Tensor, classes: Classes, name: str, args: argparse.Namespace, note: str
) -> None:
    if not args.no_overlay:
        drawn = overlay(image, labels, classes, args.opacity)
        save_image(args.out / "overlays" / f"{name}.jpg", drawn)
    if args.submission:
        save_submission(args.submission, args.out / "submission", name, labels)
    save_labels(args.out / "labels" / f"{name}.png", labels, classes, note)


def _video(
    predictor: AutoWindowPredictor,
    file: Path,
    name: str,
    decay: float,
    args: argparse.Namespace,
    progress: Progress,
    note: str,
) -> None:
    bar = progress.add_task(file.name, total=None)
    video.overlay_video(
        predictor,
        file,
        args.out / "overlays" / f"{name}.mp4",
        decay=decay,
        opacity=args.opacity,
        progress=lambda done, total: progress.update(bar, completed=done, total=total),
        note=note,
    )


def _decay(args: argparse.Namespace, first: Path | None) -> float:
    """The decay of --temporal, once the options are known to fit the inputs."""
    if args.ema_decay is not None and args.temporal == "none":
        raise UserError("--ema-decay needs --temporal ema; add it or leave the decay out")
    if args.temporal != "none" and first is None:
        raise UserError("--temporal is for videos, and no input is one; leave it out")
    if first is not None and args.no_overlay:
        raise UserError(f"of video '{first}' only the overlay is written; drop --no-overlay")
    if first is not None:
        video.check_available()
    if args.temporal == "none":
        return 0.0
    decay = 0.6 if args.ema_decay is None else float(args.ema_decay)
    video.check_decay(decay)
    return decay


def _predictor(args: argparse.Namespace) -> tuple[Predictor, Record]:
    """The predictor, and what decides on its results beside the picture."""
    elsewhere = args.backend != "torch" or is_exported(args.model)
    if elsewhere and args.device not in (None, "cpu"):
        raise UserError(f"--device {args.device} is for --backend torch; leave one of the two out")
    if elsewhere and args.compile:
        raise UserError("--compile is for --backend torch; leave one of the two out")
    device = best_device("cpu" if elsewhere else args.device)
    model = load_exported(args.model) if is_exported(args.model) else load_model(args.model)
    common = origin(model, args.model, {name: getattr(args, name) for name in DECISIVE})
    if not elsewhere:
        model = for_inference(model.to(device))
    if args.compile:
        setattr(model, "low_res", torch.compile(model.low_res, dynamic=True))  # noqa: B010
    if args.protocol is None:
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
    for option in ("scales", "flip", "window", "stride", "merge"):
        if getattr(args, option):
            raise UserError(f"--protocol sets --{option} itself; leave one of the two out")
    return Predictor.from_protocol(model, args.protocol, device, args.backend), common


def _size(numbers: list[int] | None, option: str) -> int | Size | None:
    if numbers is None or len(numbers) == 1:
        return numbers[0] if numbers else None
    if len(numbers) != 2:
        raise UserError(
            f"{option} takes a side, or a height and a width, not {len(numbers)} numbers"
        )
    return numbers[0], numbers[1]
