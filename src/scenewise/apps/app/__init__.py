"""``scenewise app``: a web page on which a click shows what a pixel attends to."""

import argparse
from pathlib import Path

from rich.console import Console

from scenewise.apps.app.explorer import Explorer
from scenewise.apps.app.server import build_application, listening, serve
from scenewise.apps.app.state import Network
from scenewise.apps.app.titles import score_in
from scenewise.errors import UserError
from scenewise.inference.devices import best_device
from scenewise.models.checkpoints import load_model


def run(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl+C."""
    device = best_device(args.device)
    networks = [
        Network(name, load_model(path).to(device), score_in(path))
        for name, path in _names(args.model).items()
    ]
    explorer = Explorer(networks, args.samples)
    application = build_application(explorer)
    with listening(args.host, args.port) as sock:
        host, port = sock.getsockname()[:2]  # the port that --port 0 got; IPv6 has more parts
        address = f"[{host}]" if ":" in host else host  # IPv6 in a URL
        Console(stderr=True).print(f"http://{address}:{port}  (Ctrl+C stops)", soft_wrap=True)
        serve(application, sock, args.host)


def _names(paths: list[str]) -> dict[str, str]:
    """Model paths by their shortest unique names: the last parts of the paths.

    >>> _names(["runs/danet", "runs/fcn/"])
    {'danet': 'runs/danet', 'fcn': 'runs/fcn/'}
    >>> _names(["a/best", "b/best"])
    {'a/best': 'a/best', 'b/best': 'b/best'}
    """
    parts = [Path(path).parts for path in paths]
    if len(set(parts)) < len(parts):
        raise UserError(f"the same --model is given twice in {', '.join(paths)}; give each once")
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, paths, strict=True))
