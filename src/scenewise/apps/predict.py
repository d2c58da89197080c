"""``scenewise predict``: labels and overlays of pictures, overlays of videos."""

import argparse
import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from scenewise import video
from scenewise.apps.submission import Server, check_server, save_submission
from scenewise.data.images import SUFFIXES, read_image
from scenewise.errors import UserError
from scenewise.exports import Backend, is_exported, load_exported
from scenewise.files import write_json
from scenewise.inference import Merge, Predictor, usable_device
from scenewise.models import load_model
from scenewise.models.inference_form import for_inference
from scenewise.protocols import PROTOCOLS
from scenewise.visualize import overlay, save_labels, save_picture
from scenewise.windows import Size

EXAMPLES = """\
writes OUT/labels/NAME.png (one byte a pixel, the class id), OUT/overlays/NAME.jpg and
OUT/classes.json. NAME is the picture's name without suffix; where two pictures share it, the
suffix is kept, or the folders.

A video (mp4, avi, mov, mkv, webm, gif) gives OUT/overlays/NAME.mp4 alone: no label files for its
frames, no sound. --temporal ema averages the scores over time: s_t = d s_(t-1) + (1 - d) p_t, with
d of --ema-decay. Videos need the extra: pip install 'scenewise[video]'.

examples:
  scenewise predict street.png --model RUN_FOLDER --out predictions
  scenewise predict pictures/ --model RUN_FOLDER --out predictions --window 768 --flip
  scenewise predict 'pictures/**/*.jpg' --model RUN_FOLDER --out predictions --scales 0.75 1 1.25
  scenewise predict pictures/ --model RUN_FOLDER --out predictions --protocol danet_ss
  scenewise predict drive.mp4 --model RUN_FOLDER --out predictions --temporal ema
  scenewise predict pictures/ --model RUN_FOLDER --out predictions --backend openvino
  scenewise predict pictures/ --model danet.onnx --out predictions
  scenewise predict leftImg8bit/test --model RUN_FOLDER --out predictions --submission cityscapes
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
    parser.add_argument("--no-overlay", action="store_true", help="write the labels only")
    parser.add_argument(
        "--submission",
        choices=get_args(Server),
        help="also write OUT/submission, as that test server takes it",
    )
    parser.add_argument("--opacity", type=float, default=0.5, help="of the overlay; 0..1")
    parser.add_argument(
        "--temporal", choices=("none", "ema"), default="none", help="of videos: average over time"
    )
    parser.add_argument("--ema-decay", type=float, metavar="D", help="0 to below 1; default 0.6")


def run(args: argparse.Namespace) -> None:
    """Label every picture and video; tell at the end which ones could not be read."""
    files, left_out = find_pictures(args.images)
    names = output_names(files)
    decay = _decay(args, [file for file in files if is_video(file)])
    predictor = _predictor(args)
    if args.submission:
        check_server(args.submission, predictor.model.classes)
    console = Console(stderr=True)
    failures = []
    with Progress(console=console) as progress:
        for file, name in progress.track(
            list(zip(files, names, strict=True)), description="predict"
        ):
            try:
                if is_video(file):
                    _video(predictor, file, name, decay, args, progress)
                    continue
                image = read_image(file)
            except UserError as error:
                failures.append(str(error))
                continue
            _picture(predictor, image, name, args)
    write_json(args.out / "classes.json", predictor.model.classes.to_dict())
    what = "pictures and videos" if any(map(is_video, files)) else "pictures"
    done = f"{len(files) - len(failures)} of {len(files)} {what} labelled in '{args.out}'"
    if failures:
        raise UserError(f"{done}; {'; '.join(failures)}")
    others = f"; left out {left_out} other files in the folders" if left_out else ""
    console.print(f"{done}{others}", soft_wrap=True)


def is_video(file: Path) -> bool:
    """Whether the name is a video's."""
    return file.suffix.lower() in video.SUFFIXES


def _picture(predictor: Predictor, image: Tensor, name: str, args: argparse.Namespace) -> None:
    classes, labels = predictor.model.classes, predictor(image).labels
    save_labels(args.out / "labels" / f"{name}.png", labels, classes)
    if args.submission:
        save_submission(args.submission, args.out / "submission", name, labels)
    if not args.no_overlay:
        drawn = overlay(image, labels, classes, args.opacity)
        save_picture(args.out / "overlays" / f"{name}.jpg", drawn)


def _video(
    predictor: Predictor,
    file: Path,
    name: str,
    decay: float,
    args: argparse.Namespace,
    progress: Progress,
) -> None:
    bar = progress.add_task(file.name, total=None)
    video.overlay_video(
        predictor,
        file,
        args.out / "overlays" / f"{name}.mp4",
        decay=decay,
        opacity=args.opacity,
        progress=lambda done, total: progress.update(bar, completed=done, total=total),
    )


def _decay(args: argparse.Namespace, videos: Sequence[Path]) -> float:
    """The decay of --temporal, once the options are known to fit the inputs."""
    if args.ema_decay is not None and args.temporal == "none":
        raise UserError("--ema-decay needs --temporal ema; add it or leave the decay out")
    if args.temporal != "none" and not videos:
        raise UserError("--temporal is for videos, and no input is one; leave it out")
    if videos and args.no_overlay:
        raise UserError(f"of video '{videos[0]}' only the overlay is written; drop --no-overlay")
    if videos:
        video.check_available()
    if args.temporal == "none":
        return 0.0
    decay = 0.6 if args.ema_decay is None else float(args.ema_decay)
    video.check_decay(decay)
    return decay


def find_pictures(words: Sequence[str]) -> tuple[list[Path], int]:
    """The pictures and videos that files, folders and glob patterns name, each once, in order.

    Returns:
        The pictures, and the number of files in the folders that have neither's suffix.

    Raises:
        UserError: a word names no picture.
    """
    found: dict[str, Path] = {}
    left_out = 0
    for word in words:
        path = Path(word)
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.is_file())
            pictures = [p for p in inside if is_video(p) or p.suffix.lower() in SUFFIXES]
            left_out += len(inside) - len(pictures)
        elif path.exists():
            pictures = [path]
        else:
            pictures = [
                Path(p) for p in sorted(glob.glob(word, recursive=True)) if Path(p).is_file()
            ]
        if not pictures:
            raise UserError(
                f"'{word}' names no picture; give a picture, a folder of them, or a pattern"
            )
        found |= {os.path.realpath(p): p for p in pictures if os.path.realpath(p) not in found}
    return list(found.values()), left_out


def output_names(files: Sequence[Path]) -> list[str]:
    """Names without suffix, kept apart: by the pictures' suffixes, or by their folders.

    >>> output_names([Path("x/a.png"), Path("x/b.png")])
    ['a', 'b']
    >>> output_names([Path("x/a.png"), Path("x/a.jpg")])
    ['a.png', 'a.jpg']
    >>> output_names([Path("x/a.png"), Path("y/a.png")])
    ['x/a', 'y/a']
    """
    absolute = [Path(os.path.abspath(file)) for file in files]
    top = os.path.commonpath([file.parent for file in absolute])
    deep = [file.relative_to(top) for file in absolute]
    choices = (
        [file.stem for file in files],
        [file.name for file in files],
        [file.with_suffix("").as_posix() for file in deep],
        [file.as_posix() for file in deep],
    )
    return next(names for names in choices if len({n.casefold() for n in names}) == len(names))


def best_device(name: str | None) -> torch.device:
    """The named device, or an accelerator where there is one, else the CPU."""
    if name is not None:
        return usable_device(name)
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def _predictor(args: argparse.Namespace) -> Predictor:
    elsewhere = args.backend != "torch" or is_exported(args.model)
    if elsewhere and args.device not in (None, "cpu"):
        raise UserError(f"--device {args.device} is for --backend torch; leave one of the two out")
    device = best_device("cpu" if elsewhere else args.device)
    model = load_exported(args.model) if is_exported(args.model) else load_model(args.model)
    if not elsewhere:
        model = for_inference(model.to(device))
    if args.protocol is None:
        return Predictor(
            model,
            scales=args.scales or (1.0,),
            flip=args.flip,
            window=_size(args.window, "--window"),
            stride=_size(args.stride, "--stride"),
            merge=args.merge or "softmax",
            device=device,
            backend=args.backend,
        )
    for option in ("scales", "flip", "window", "stride", "merge"):
        if getattr(args, option):
            raise UserError(f"--protocol sets --{option} itself; leave one of the two out")
    return Predictor.from_protocol(model, args.protocol, device, args.backend)


def _size(numbers: list[int] | None, option: str) -> int | Size | None:
    if numbers is None or len(numbers) == 1:
        return numbers[0] if numbers else None
    if len(numbers) != 2:
        raise UserError(
            f"{option} takes a side, or a height and a width, not {len(numbers)} numbers"
        )
    return numbers[0], numbers[1]
