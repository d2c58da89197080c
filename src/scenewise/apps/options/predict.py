"""The options of ``scenewise predict``."""

import argparse
import csv
from pathlib import Path

from scenewise.apps.options.source import names
from scenewise.errors import UserError, choose

_EXAMPLES = """\
writes OUT/labels/NAME.png (one byte per pixel, the class id), OUT/overlays/NAME.jpg,
OUT/classes.json, and OUT/ranking.csv: mean and lowest confidence of each image, the least confident
first, which to label next. NAME is the image's name without suffix; if it is not unique, the suffix
is kept, or the folders.

On request also probabilities of all or some classes, confidence (white: sure) and entropy (white:
unsure) as grey images, the share of each class, and a contact sheet of the least certain images.

A video (mp4, avi, mov, mkv, webm, gif) gives only OUT/overlays/NAME.mp4: no label files for its
frames, no sound. --temporal ema averages the scores over time: s_t = d s_(t-1) + (1 - d) p_t, with
d of --ema-decay. Videos need the extra: pip install 'scenewise[video]'.

A raster (GeoTIFF, COG, VRT; any image with --raster yes) is read block by block, whatever its size,
and gives OUT/labels/NAME.tif with its coordinates, without overlay and ranking. Pixels without data
stay so. An interrupted raster is resumed at its next block. Rasters need the extra: pip install
'scenewise[geo]'.

An interrupted run is resumed by the same command: a result is skipped if image, model, options and
version are those of the record that the result contains; --again repeats it. Several processes
(torchrun, or RANK and WORLD_SIZE) label every WORLD_SIZE-th image each.

--engine ray labels on the Ray cluster at RAY_ADDRESS, or on all processors of this machine. IMAGE
and --out may be URLs that fsspec opens (s3://, gs://, ...), and IMAGE a folder of shards. It needs
the extra: pip install 'scenewise[ray]', and the package of the store, such as s3fs.

examples:
  scenewise predict street.png --model RUN_FOLDER --out predictions
  scenewise predict images/ --model RUN_FOLDER --out predictions --window 768 --flip
  scenewise predict 'images/**/*.jpg' --model RUN_FOLDER --out predictions --scales 0.75 1 1.25
  scenewise predict images/ --model RUN_FOLDER --out predictions --quality best
  scenewise predict images/ --model RUN_FOLDER --out predictions --protocol danet_ss
  scenewise predict images/ --model RUN_FOLDER --out predictions --threshold pole=0.3,sign=0.4
  scenewise predict images/ --model RUN_FOLDER --out predictions --threshold chosen
  scenewise predict images/ --model RUN_FOLDER --out predictions --maps confidence,entropy --shares
  scenewise predict images/ --model RUN_FOLDER --out predictions --contact-sheet 12
  scenewise predict images/ --model RUN_FOLDER --out predictions --probabilities png \\
      --probability-classes road,car
  scenewise predict drive.mp4 --model RUN_FOLDER --out predictions --temporal ema
  scenewise predict map.tif --model RUN_FOLDER --out predictions --bands confidence --vectors gpkg
  scenewise predict images/ --model RUN_FOLDER --out predictions --backend openvino
  scenewise predict images/ --model RUN_FOLDER --out predictions --backend auto
  scenewise predict images/ --model danet.onnx --out predictions
  scenewise predict images/ --model RUN_FOLDER --out predictions --format coco --sure 0.95
  scenewise predict images/ --model RUN_FOLDER --out predictions --format geojson
  scenewise predict leftImg8bit/test --model RUN_FOLDER --out predictions --submission cityscapes
  torchrun --nproc-per-node 2 -m scenewise predict images/ --model RUN_FOLDER --out predictions
  scenewise predict images/ --model RUN_FOLDER --out predictions --engine ray --actors 4
  scenewise predict s3://bucket/images --model RUN_FOLDER --out s3://bucket/labels --engine ray
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``scenewise predict``."""
    parser.epilog = _EXAMPLES
    add = parser.add_argument
    images = "an image or video, a folder, or a pattern; with --engine ray also URLs and shards"
    add("images", nargs="+", metavar="IMAGE", help=images)
    models = "model folder, run folder, checkpoint, hf-hub:OWNER/NAME, or exported .onnx or .xml"
    add("--model", required=True, help=models)
    add("--out", type=_out, required=True, help="folder to write; with --engine ray also a URL")
    _add_inference_options(parser)
    _add_engine_options(parser)
    add("--no-overlay", action="store_true", help="write only the labels")
    servers = "also write OUT/submission in the format of that test server"
    add("--submission", choices=names("scenewise.apps.predict.submission", "Server"), help=servers)
    _add_output_options(parser)
    _add_raster_options(parser)
    tool = (
        "also write OUT/FORMAT for that labelling tool, with links to the images; geojson: "
        "polygons in pixels, with class, area and confidence, for each image"
    )
    add("--format", choices=names("scenewise.apps.predict.labelling", "Format"), help=tool)
    sure = "ignore pixels whose confidence is below P: id 255, and regions called __ignore__"
    add("--sure", type=float, metavar="P", help=sure)
    add("--again", action="store_true", help="also repeat what an earlier run finished")
    add("--opacity", type=float, default=0.5, help="of the overlay; 0..1")
    temporal = "for videos: average the scores over time"
    add("--temporal", choices=("none", "ema"), default="none", help=temporal)
    add("--ema-decay", type=float, metavar="D", help="0 to below 1; default 0.6")


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    kinds = names("scenewise.apps.predict.score_files", "ProbabilityFormat")
    probabilities = (
        "also write OUT/probabilities: npz float16, png 8 bits and a file a class, tiff float32 "
        "and a page a class"
    )
    add("--probabilities", choices=kinds, help=probabilities)
    chosen = "of --probabilities, classes by name, with commas; default all"
    add("--probability-classes", type=_comma_separated, metavar="NAMES", help=chosen)
    maps = (
        "also write OUT/confidence or OUT/entropy as 8-bit grey, round(255 v): confidence,entropy"
    )
    add("--maps", type=_maps, default=[], metavar="MAPS", help=maps)
    add("--shares", action="store_true", help="also write OUT/shares.csv: share of each class")
    sheet = "also write OUT/least_certain.png: the N images of lowest confidence, with overlays"
    add("--contact-sheet", type=int, metavar="N", help=sheet)


def _comma_separated(text: str) -> list[str]:
    """The names of a list with commas; one that has a comma itself is quoted.

    >>> _comma_separated('road, "door, closed"')
    ['road', 'door, closed']
    """
    return next(csv.reader([text], skipinitialspace=True), [])


def _maps(text: str) -> list[str]:
    known = names("scenewise.apps.predict.score_files", "Map")
    for name in (given := _comma_separated(text)):
        if name not in known:
            raise UserError(f"--maps names an unknown map '{name}'; {choose(name, known)}")
    return [name for name in known if name in given]


def _add_raster_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    when = "read inputs block by block: auto those with coordinates, yes all, no none"
    add("--raster", choices=("auto", "yes", "no"), default="auto", help=when)
    add("--block", type=int, default=1024, metavar="PIXELS", help="of rasters; default 1024")
    halo = "what is also read around a block, and dropped; default 128"
    add("--halo", type=int, default=128, metavar="PIXELS", help=halo)
    bands = "of rasters, also write OUT/confidence/NAME.tif or OUT/probabilities/NAME.tif"
    kinds = names("scenewise.apps.predict.raster_results", "Bands")
    add("--bands", nargs="+", choices=kinds, help=bands)
    vectors = "of rasters, also write OUT/vectors/NAME.FORMAT: polygons with class and coordinates"
    add("--vectors", choices=names("scenewise.data.vectors", "VectorFormat"), help=vectors)


def _out(text: str) -> Path | str:
    """A folder; a URL stays as it is, because a path would lose one of its slashes."""
    return text if "://" in text else Path(text)


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    engine = "torch labels in this process; ray in many, on this machine or on a cluster"
    add("--engine", choices=("torch", "ray"), default="torch", help=engine)
    actors = "processes of --engine ray, each with a network and one CPU; default all CPUs"
    add("--actors", type=int, metavar="N", help=actors)
    gpus = "GPUs of each process of --engine ray: 1, or 0.5 to share one; default 0, the CPU"
    add("--gpus-per-actor", type=float, default=0.0, metavar="G", help=gpus)


def _add_inference_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    quality = "fast (default), good: also the mirror image, or best: also four scales"
    add("--quality", choices=names("scenewise.inference.quality", "Quality"), help=quality)
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
    add(
        "--blend",
        choices=names("scenewise.inference.sliding_window", "Blend"),
        help="weights of overlapping windows: even (default), or hann, fading towards the border",
    )
    threshold = (
        "a pixel is CLASS where its probability is at least P: 0.3 instead of the largest; "
        "repeatable, or with commas; chosen: those of scenewise test --choose_thresholds"
    )
    add("--threshold", action="append", default=[], metavar="CLASS=P", help=threshold)
    protocols = ", ".join(names("scenewise.inference.protocols", "PROTOCOLS"))
    add("--protocol", metavar="NAME", help=f"a published evaluation: {protocols}")
    add("--device", help="cpu, cuda, cuda:1, ...; default an accelerator if available")
    backend = (
        "runtime of the network; onnxruntime and openvino convert it first and use the CPU; auto "
        "measures all that are installed on the first image"
    )
    add(
        "--backend",
        choices=(*names("scenewise.exports.runtime", "Backend"), "auto"),
        default="torch",
        help=backend,
    )
    batch = (
        "images of equal size that follow each other and go through the network together; default "
        "8 on an accelerator, fewer if they are large, and 1 on a CPU"
    )
    add("--batch-size", type=int, metavar="N", help=batch)
    compiled = "use torch.compile: takes minutes first, pays off for many images"
    add("--compile", action="store_true", help=compiled)
