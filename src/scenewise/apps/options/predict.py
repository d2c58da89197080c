"""The options of ``scenewise predict``."""

import argparse
from pathlib import Path

from scenewise.apps.options.source import names

_EXAMPLES = """\
writes OUT/labels/NAME.png (one byte per pixel, the class id), OUT/overlays/NAME.jpg,
OUT/classes.json, and OUT/ranking.csv: mean and lowest confidence of each image, the least confident
first, which to label next. NAME is the image's name without suffix; if it is not unique, the suffix
is kept, or the folders.

A video (mp4, avi, mov, mkv, webm, gif) gives only OUT/overlays/NAME.mp4: no label files for its
frames, no sound. --temporal ema averages the scores over time: s_t = d s_(t-1) + (1 - d) p_t, with
d of --ema-decay. Videos need the extra: pip install 'scenewise[video]'.

An interrupted run is resumed by the same command: a result is skipped if image, model, options and
version are those of the record that the result contains; --again repeats it. Several processes
(torchrun, or RANK and WORLD_SIZE) label every WORLD_SIZE-th image each.

examples:
  scenewise predict street.png --model RUN_FOLDER --out predictions
  scenewise predict images/ --model RUN_FOLDER --out predictions --window 768 --flip
  scenewise predict 'images/**/*.jpg' --model RUN_FOLDER --out predictions --scales 0.75 1 1.25
  scenewise predict images/ --model RUN_FOLDER --out predictions --protocol danet_ss
  scenewise predict drive.mp4 --model RUN_FOLDER --out predictions --temporal ema
  scenewise predict images/ --model RUN_FOLDER --out predictions --backend openvino
  scenewise predict images/ --model danet.onnx --out predictions
  scenewise predict images/ --model RUN_FOLDER --out predictions --format coco --sure 0.95
  scenewise predict leftImg8bit/test --model RUN_FOLDER --out predictions --submission cityscapes
  torchrun --nproc-per-node 2 -m scenewise predict images/ --model RUN_FOLDER --out predictions
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``scenewise predict``."""
    parser.epilog = _EXAMPLES
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="an image or video, a folder, or a pattern")
    models = "model folder, run folder, checkpoint, hf-hub:OWNER/NAME, or exported .onnx or .xml"
    add("--model", required=True, help=models)
    add("--out", type=Path, required=True, help="folder to write")
    _add_inference_options(parser)
    add("--no-overlay", action="store_true", help="write only the labels")
    servers = "also write OUT/submission in the format of that test server"
    add("--submission", choices=names("scenewise.apps.predict.submission", "Server"), help=servers)
    tool = "also write OUT/FORMAT for that labelling tool, with links to the images"
    add("--format", choices=names("scenewise.apps.predict.labelling", "Tool"), help=tool)
    sure = "ignore pixels whose confidence is below P: id 255, and regions called __ignore__"
    add("--sure", type=float, metavar="P", help=sure)
    add("--again", action="store_true", help="also repeat what an earlier run finished")
    add("--opacity", type=float, default=0.5, help="of the overlay; 0..1")
    temporal = "for videos: average the scores over time"
    add("--temporal", choices=("none", "ema"), default="none", help=temporal)
    add("--ema-decay", type=float, metavar="D", help="0 to below 1; default 0.6")


def _add_inference_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--scales", type=float, nargs="+", metavar="S", help="factors on the size; default 1")
    add("--flip", action="store_true", help="average with the mirror image")
    add("--window", type=int, nargs="+", metavar="PIXELS", help="side, or height and width")
    stride = "default two thirds of the window"
    add("--stride", type=int, nargs="+", metavar="PIXELS", help=stride)
    add(
        "--merge",
        choices=names("scenewise.inference.predictor", "Merge"),
        help="what is averaged; default softmax",
    )
    protocols = ", ".join(names("scenewise.inference.protocols", "PROTOCOLS"))
    add("--protocol", metavar="NAME", help=f"a published evaluation: {protocols}")
    add("--device", help="cpu, cuda, cuda:1, ...; default an accelerator if available")
    backend = "runtime of the network; onnxruntime and openvino convert it first and use the CPU"
    add(
        "--backend",
        choices=names("scenewise.exports.runtime", "Backend"),
        default="torch",
        help=backend,
    )
    compiled = "use torch.compile: takes minutes first, pays off for many images"
    add("--compile", action="store_true", help=compiled)
