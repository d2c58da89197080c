"""The options of ``scenewise explain``."""

import argparse
from pathlib import Path

_EXAMPLES = """\
rows and columns count from 0, at the upper left. A network without attention is explained by the
gradients of its scores. Gradients need the extra: pip install 'scenewise[gradient]'.

examples:
  scenewise explain street.png --model RUN_FOLDER --at 120,300 --out attention.png
  scenewise explain street.png --model RUN_FOLDER --at 120,300 --at 40,7 --out attention.pdf
  scenewise explain street.png --model RUN_FOLDER --at 120,300 --channels 4 --out attention.png
  scenewise explain street.png --model RUN_FOLDER --at 120,300 --explain gradient --out gradient.png
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
    parser.add_argument(
        "--explain",
        choices=("attention", "gradient"),
        help="what the pixel attends to, or which part of the image moves the score of its class; "
        "default attention if the model has it",
    )
    parser.add_argument(
        "--channels",
        type=_count,
        metavar="N",
        help="also draw what each block changes in its N strongest channels",
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


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a number of channels is 0 or more, not '{text}'")
    return int(text)
