"""The options of ``scenewise prepare``."""

import argparse

from scenewise.apps.options.check import FORMAT_HELP, add_reading_arguments

_EXAMPLES = """\
examples:
  scenewise prepare my_images
  scenewise prepare pascal_context VOCdevkit
  scenewise prepare voc_aug data --out voc_aug --split train val
  scenewise prepare cityscapes data --shards 128 --out shards

The result is read with --data.format folder. Preparing is optional; it saves time if the labels are
MATLAB files, one large JSON file, or colour images. The originals are only read. Call it again to
resume after an interruption.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.epilog = _EXAMPLES
    parser.add_argument("format", metavar="FORMAT", nargs="?", default="auto", help=FORMAT_HELP)
    parser.add_argument("root", metavar="ROOT", help="folder of the dataset")
    add_reading_arguments(parser)
    parser.add_argument(
        "--out", metavar="DIR", help="folder of the result; default: ROOT/prepared_FORMAT"
    )
    parser.add_argument(
        "--shards", type=int, metavar="N", help="write tar files of N images instead of folders"
    )
