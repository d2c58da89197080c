"""``scenewise prepare``: rewrite a dataset as images and class-id masks, or as shards."""

import argparse
from pathlib import Path

from scenewise.apps.check import FORMAT_HELP, add_reading_arguments, check_workers, progress
from scenewise.data.datasets import SegmentationDataset
from scenewise.data.formats import FORMATS
from scenewise.data.prepare import prepare
from scenewise.data.shards import write_shards
from scenewise.errors import UserError

EXAMPLES = """\
examples:
  scenewise prepare pascal_context VOCdevkit
  scenewise prepare voc_aug data --out voc_aug --split train val
  scenewise prepare cityscapes data --shards 128 --out shards

The result is read with --data.format folder. Preparing is optional; it saves time if the labels are
MATLAB files, one large JSON file, or colour images. The originals are only read. Call it again to
resume after an interruption.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.epilog = EXAMPLES
    parser.add_argument("format", metavar="FORMAT", choices=sorted(FORMATS), help=FORMAT_HELP)
    parser.add_argument("root", metavar="ROOT", help="folder of the dataset as published")
    add_reading_arguments(parser)
    parser.add_argument(
        "--out", metavar="DIR", help="folder of the result; default: ROOT/prepared_FORMAT"
    )
    parser.add_argument(
        "--shards", type=int, metavar="N", help="write tar files of N images instead of folders"
    )


def run(args: argparse.Namespace) -> None:
    """Write the prepared dataset and print where it is.

    Raises:
        UserError: an original is unusable, or the folder is not writable.
    """
    check_workers(args.workers)
    out = args.out or Path(args.root) / f"prepared_{args.format}"

    def build(split: str) -> SegmentationDataset:
        return FORMATS[args.format].open(args.root, split, None)

    if args.shards is None:
        prepare(build, out, args.split, progress, args.workers)
    elif args.shards < 1:
        raise UserError(f"--shards is {args.shards}; give 1 or more images a shard")
    else:
        write_shards(build, out, args.split, progress, args.workers, args.shards)
    layout = "folder" if args.shards is None else "stream"
    print(f"written to {out}; use --data.format {layout} --data.root {out}")
