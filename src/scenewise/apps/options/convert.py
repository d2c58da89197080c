"""The options of ``scenewise convert``."""

import argparse
from pathlib import Path

_EXAMPLES = """\
examples:
  scenewise convert DANet101.pth.tar danet101
  scenewise convert danet_r50-d8_769x769_40k_cityscapes.pth danet50 --dry-run
  scenewise convert ccnet.pth ccnet --recurrence 2
  scenewise convert --to mmseg danet50 danet_r50-d8.pth

FILE is a checkpoint of DANet, mmsegmentation, torchvision, CCNet, semseg or openseg (docs:
checkpoints). Nothing in it is executed. Settings come from the options, the config in the file,
its published name, or the released weights; what decided each is printed. OUT is then a model for
predict, explain, test and app.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``scenewise convert``."""
    parser.epilog = _EXAMPLES
    parser.add_argument("file", type=Path, metavar="FILE", help="checkpoint; with --to a model")
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT", help="folder; with --to a file")
    parser.add_argument("--dry-run", action="store_true", help="only print the key of each tensor")
    parser.add_argument("--family", metavar="NAME", help="instead of detecting it")
    parser.add_argument(
        "--multi-grid", type=int, nargs="*", metavar="D", help="last stage's dilations; bare: none"
    )
    parser.add_argument("--recurrence", type=int, help="of criss-cross attention; released: 2")
    parser.add_argument(
        "--align-corners", action=argparse.BooleanOptionalAction, help="of the upsampling of logits"
    )
    parser.add_argument("--output-stride", type=int, choices=(8, 16, 32))
    parser.add_argument(
        "--threshold", type=float, help="of one output channel; its object is above it"
    )
    parser.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        help="take the averaged weights, or not, of a file with both; default: as it is deployed",
    )
    parser.add_argument("--to", choices=("mmseg", "danet"), help="write a model in that layout")
