"""The options of ``scenewise check``."""

import argparse

from scenewise.apps.options.source import names

FORMATS = ["auto", *sorted(names("scenewise.data.formats", "FORMATS"))]
FORMAT_HELP = f"the layout of the data, which auto recognises: {', '.join(FORMATS)}"
_EXAMPLES = """\
examples:
  scenewise check my_images
  scenewise check my_images --labels 0=background,255=disc
  scenewise check cityscapes --format cityscapes --split val --out sheet.png
  scenewise check ade --format ade20k --json > report.json

The exit code is 1 if training would fail or learn nonsense, else 0.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.epilog = _EXAMPLES
    parser.add_argument("root", metavar="ROOT", help="folder of the dataset")
    flags = ("--format", "--data.format")  # the second as messages and fit call it
    parser.add_argument(
        *flags, dest="format", default="auto", choices=FORMATS, metavar="F", help=FORMAT_HELP
    )
    add_reading_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--out", metavar="FILE.png", help="also write a sheet of images with their masks overlaid"
    )


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the splits to read, what the masks mean, and the number of threads."""
    parser.add_argument(
        "--split", nargs="+", default=["train", "val"], help="default: train val", metavar="SPLIT"
    )
    channels = "channels of the images to read, by index from 0; default: all but transparency"
    parser.add_argument("--channels", type=int, nargs="+", metavar="K", help=channels)
    pages = "the pages of a TIFF are the channels of one image"
    parser.add_argument("--pages", choices=["channels"], help=pages)
    parser.add_argument(
        "--labels",
        "--data.labels",  # as messages and fit call it
        dest="labels",
        metavar="L",
        help="what the masks hold: VALUE=CLASS,... with numbers, ranges or colours, and the class "
        "ignore; stored for class ids; a class list; CLASS=CLASS renames or merges",
    )
    parser.add_argument(
        "--without_mask",
        "--data.without_mask",
        dest="without_mask",
        choices=["refuse", "skip", "background"],
        default="refuse",
        help="what images without a mask are",
    )
    parser.add_argument(
        "--val_share",
        "--data.val_share",
        dest="val_share",
        metavar="SHARE",
        type=float,
        default=0.2,
        help="of the images, if there is no split val",
    )
    parser.add_argument(
        "--splits",
        "--data.splits",
        dest="splits",
        metavar="S",
        help="folder with train.txt and val.txt, lists, or folders",
    )
    parser.add_argument("--workers", type=int, help="threads; default: a few more than processors")
