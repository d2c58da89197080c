"""``scenewise bench``: speed and memory on this machine, compared with the usual implementation."""

import argparse
import json
import platform
from dataclasses import asdict
from importlib import import_module
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from scenewise._version import __version__
from scenewise.apps.options.bench import SUBJECTS
from scenewise.models.cost import product_rate


def run(args: argparse.Namespace) -> None:
    """Measure one subject and print it."""
    if args.threads:
        torch.set_num_threads(args.threads)
    rows = measurements(SUBJECTS[args.subject][0], args.repeats)
    if args.json:
        print(json.dumps({"machine": machine(), "rows": rows}, indent=2))
    else:
        Console().print(_table(args.subject, rows))


def measurements(module: str, repeats: int) -> list[dict[str, Any]]:
    """The rows of a subject's module, as dicts that can be written as JSON."""
    return [asdict(row) for row in import_module(module).rows(repeats)]


def machine() -> dict[str, Any]:
    """Software and hardware that the numbers depend on."""
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return gpu | {
        "scenewise": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "matrix product GFLOP/s": round(product_rate(torch.device("cpu"), 2048, 9) / 1e9),
    }


def _table(subject: str, rows: list[dict[str, Any]]) -> Table:
    grid = Table(title=SUBJECTS[subject][1], title_justify="left")
    for name in rows[0]:
        numeric = isinstance(rows[0][name], float | int)
        grid.add_column(name.replace("_", " "), justify="right" if numeric else "left")
    for row in rows:
        grid.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    return grid
