"""``scenewise app``: a page on which a click shows what a pixel attends to."""

import argparse
from pathlib import Path

from rich.console import Console

from scenewise.apps.app.explorer import Explorer
from scenewise.apps.app.server import build_application, listening, serve
from scenewise.apps.app.state import Network
from scenewise.errors import UserError
from scenewise.inference.predictor import best_device
from scenewise.models.checkpoints import load_model

EXAMPLES = """\
the page is served to this machine alone unless --host says otherwise, and asks no other host for
anything. Pictures stay in memory for an hour at most.

examples:
  scenewise app --model RUN_FOLDER
  scenewise app --model runs/danet --model runs/ccnet --samples pictures/
  scenewise app --model RUN_FOLDER --host 0.0.0.0 --port 8000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``scenewise app``."""
    parser.epilog = EXAMPLES
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="M",
        help="model folder, run folder or checkpoint; repeat to compare two side by side",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to serve; this machine alone")
    parser.add_argument("--port", type=int, default=7860, help="default 7860")
    parser.add_argument(
        "--samples", type=Path, metavar="DIR", help="pictures to start with; generated scenes"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default an accelerator if any")


def run(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl+C."""
    device = best_device(args.device)
    models = {name: load_model(path).to(device) for name, path in names_of(args.model).items()}
    explorer = Explorer(
        {name: Network(name, model) for name, model in models.items()}, args.samples
    )
    application = build_application(explorer)
    with listening(args.host, args.port) as sock:
        host, port = sock.getsockname()[:2]
        address = f"[{host}]" if ":" in host else host
        Console(stderr=True).print(f"http://{address}:{port}  (Ctrl+C stops)", soft_wrap=True)
        serve(application, sock, args.host)


def names_of(paths: list[str]) -> dict[str, str]:
    """Models by their shortest names that differ: the last parts of their paths.

    >>> names_of(["runs/danet", "runs/fcn/"])
    {'danet': 'runs/danet', 'fcn': 'runs/fcn/'}
    >>> names_of(["a/best", "b/best"])
    {'a/best': 'a/best', 'b/best': 'b/best'}
    """
    parts = [Path(path).parts for path in paths]
    if len(set(parts)) < len(parts):
        raise UserError(f"a model is given twice in {', '.join(paths)}; give each once")
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, paths, strict=True))
