"""The options of ``scenewise app``."""

import argparse
from pathlib import Path

_EXAMPLES = """\
The page is served to this machine only, unless --host is given, and sends no request to any other
host. Images are kept for an hour at most.

examples:
  scenewise app --model RUN_FOLDER
  scenewise app --model runs/danet --model runs/ccnet --samples images/
  scenewise app --model RUN_FOLDER --host 0.0.0.0 --port 8000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``scenewise app``."""
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="M",
        help="model folder, run folder, checkpoint or hf-hub:OWNER/NAME; repeat to compare two",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to serve on; default 127.0.0.1, this machine only",
    )
    parser.add_argument("--port", type=int, default=7860, help="default 7860")
    parser.add_argument(
        "--samples", type=Path, metavar="DIR", help="sample images; default generated scenes"
    )
    parser.add_argument(
        "--device", help="cpu, cuda, cuda:1, ...; default an accelerator if available"
    )
