"""The options of ``scenewise demo``."""

import argparse
from pathlib import Path

ABLATION = ("fcn", "position", "channel", "danet")
_EXAMPLES = """\
examples:
  scenewise demo
  scenewise demo --open
  scenewise demo --all
  scenewise demo --network ccnet --steps 400 --out ccnet-demo
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``scenewise demo``."""
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "--network", default="danet", help="trained besides fcn; scenewise models lists the names"
    )
    parser.add_argument(
        "--all", action="store_true", help=f"the paper's ablation instead: {', '.join(ABLATION)}"
    )
    parser.add_argument("--steps", type=int, default=250, help="training steps of each network")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(64, 192), metavar=("H", "W"), help="of the scenes"
    )
    parser.add_argument("--seed", type=int, default=0, help="of scenes and weights")
    parser.add_argument("--out", type=Path, default=Path("scenewise-demo"), help="folder to write")
    parser.add_argument(
        "--open", action="store_true", help="show the report in a browser, where there is a desktop"
    )
