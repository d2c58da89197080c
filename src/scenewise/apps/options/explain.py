"""The options of ``scenewise explain``."""

import argparse
from pathlib import Path

_EXAMPLES = """\
rows and columns count from 0, at the upper left.

examples:
  scenewise explain street.png --model RUN_FOLDER --at 120,300 --out attention.png
  scenewise explain street.png --model RUN_FOLDER --at 120,300 --at 40,7 --out attention.pdf
  scenewise explain street.png --model RUN_FOLDER --class car --out car.png --report car.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``scenewise explain``."""
    parser.epilog = _EXAMPLES
    parser.add_argument("image", metavar="IMAGE", help="an image")
    models = "model folder, run folder, checkpoint or hf-hub:OWNER/NAME"
    parser.add_argument("--model", required=True, help=models)
    parser.add_argument(
        "--at", type=_pixel, action="append", metavar="ROW,COL", help="a pixel; repeatable"
    )
    parser.add_argument(
        "--class",
        dest="class_name",
        action="append",
        metavar="NAME",
        help="the most confident pixel of this predicted class; repeatable",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="figure to write: .png, .pdf or .svg"
    )
    parser.add_argument("--report", type=Path, metavar="HTML", help="also write all numbers")
    parser.add_argument(
        "--mask", metavar="FILE", help="true labels for the report; default the prediction"
    )
    device = "cpu, cuda, cuda:1, ...; default an accelerator if available"
    parser.add_argument("--device", help=device)


def _pixel(text: str) -> tuple[int, int]:
    try:
        row, column = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"a pixel is ROW,COL such as 120,300, not '{text}'"
        ) from None
    return row, column
