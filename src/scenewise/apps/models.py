"""``scenewise models``: every network, its paper, FLOPs and memory."""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scenewise.apps.options.models import SETTINGS
from scenewise.apps.options.source import names
from scenewise.errors import UserError, choose

STORED = Path(__file__).with_suffix(".json")  # the rows of the default settings
_ROW = "{name:14}{year:>5}{stride:>7}{parameters:>12}{gflops:>9}{test_mb:>9}{train_mb:>10}  {about}"
_TRANSFORMER = "vit_small_patch14_dinov2"  # of networks that need one, instead of --backbone
_HEADINGS = {
    "name": "network",
    "year": "year",
    "stride": "stride",
    "parameters": "parameters",
    "gflops": "GFLOPs",
    "test_mb": "test MB",
    "train_mb": "train MB",
    "about": "attention; paper",
}


def run(args: argparse.Namespace) -> None:
    """Print the table row by row, or the JSON."""
    if min(args.size) < 32:  # one pixel at stride 32
        raise UserError(f"--size {args.size[0]} {args.size[1]} is too small; give at least 32 32")
    if args.batch < 2:
        raise UserError(f"--batch {args.batch} is too small for batch norm; give 2 or more")
    known = names("scenewise.models.zoo", "NETWORKS")
    for name in args.networks:
        if name not in known:
            raise UserError(f"unknown network '{name}'; {choose(name, known)}")
    rows = _rows(args.networks or known, {name: getattr(args, name) for name in SETTINGS})
    if args.json:
        print(json.dumps(list(rows), indent=2))
        return
    for index, row in enumerate(rows):
        if index == 0:
            print(_ROW.format(**_HEADINGS))
        print(_line(row), flush=True)


def _rows(networks: Sequence[str], settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of networks: as stored for the default settings, else computed one by one."""
    stored: dict[str, dict[str, Any]] = {}
    if {**settings, "size": tuple(settings["size"])} == SETTINGS:
        stored = {row["name"]: row for row in json.loads(STORED.read_text(encoding="utf-8"))}
    for name in networks:
        yield stored[name] if name in stored else compute_row(name, settings)


def compute_row(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The columns of one network; takes about a second."""
    import torch  # here, as stored rows need none of these

    from scenewise.models.build import create_model
    from scenewise.models.cost import estimate
    from scenewise.models.zoo import NETWORKS

    network = NETWORKS[name]
    backbone = _TRANSFORMER if network.layers else settings["backbone"]
    with torch.device("meta"):  # weights without memory
        model = create_model(
            name,
            num_classes=settings["num_classes"],
            backbone=backbone,
            output_stride=settings["output_stride"],
            pretrained=False,
        )
    test = estimate(model, settings["size"])
    train = estimate(model, settings["size"], batch=settings["batch"], training=True)
    return {
        "name": name,
        "paper": network.paper,
        "year": network.year,
        "attention": network.attention,
        "variants": list(network.variants),
        "backbone": backbone,
        "size": list(settings["size"]),
        "batch": settings["batch"],
        "stride": model.backbone.stride,
        "parameters": test.parameters,
        "gflops": test.flops / 1e9,
        "test_mb": test.activation_bytes / 1e6,
        "train_mb": train.bytes / 1e6,
    }


def _line(row: dict[str, Any]) -> str:
    """One line of the table."""
    return _ROW.format(
        name=row["name"],
        year=row["year"] or "-",
        stride=row["stride"],
        parameters=f"{row['parameters']:,}",
        gflops=f"{row['gflops']:,.1f}",
        test_mb=f"{row['test_mb']:,.0f}",
        train_mb=f"{row['train_mb']:,.0f}",
        about=f"{row['attention']}; {row['paper']}",
    )
