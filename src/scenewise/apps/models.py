"""``scenewise models``: every network, its paper, FLOPs and memory."""

import argparse
import json
from typing import Any

import torch

from scenewise.errors import UserError
from scenewise.models.build import create_model, list_models
from scenewise.models.cost import estimate
from scenewise.models.zoo import NETWORKS

_EXAMPLES = """\
examples:
  scenewise models
  scenewise models danet ccnet --size 769 769 --backbone resnet101
  scenewise models --json > models.json

Nothing is trained or fetched. GFLOPs are of the forward pass for one image, as PyTorch's
FlopCounterMode counts them: convolutions and matrix products, a multiply-add as two; not norms,
softmax, pooling or upsampling. "test MB" is the peak memory of the forward pass for one image,
without the network. "train MB" is the peak memory of a training step: activations of --batch
images, network, gradients and momentum. All in float32; a GPU's libraries take some hundred MB
more. Networks are in their first variant, the default of create_model.
"""

_ROW = "{name:14}{year:>5}{stride:>7}{parameters:>12}{gflops:>9}{test_mb:>9}{train_mb:>10}  {about}"
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``scenewise models``."""
    parser.epilog = _EXAMPLES
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="only these; default all")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(512, 512), metavar=("H", "W"), help="of the images"
    )
    parser.add_argument("--backbone", default="resnet50", help="'tiny' or a timm model")
    parser.add_argument("--output-stride", type=int, default=8, choices=(8, 16, 32))
    parser.add_argument("--num-classes", type=int, default=19)
    parser.add_argument("--batch", type=int, default=2, help="images of a training step")
    parser.add_argument("--json", action="store_true", help="a list of objects instead of a table")


def run(args: argparse.Namespace) -> None:
    """Print the table row by row, or the JSON."""
    if min(args.size) < 32:  # one pixel at stride 32
        raise UserError(f"--size {args.size[0]} {args.size[1]} is too small; give at least 32 32")
    if args.batch < 2:
        raise UserError(f"--batch {args.batch} is too small for batch norm; give 2 or more")
    for name in args.networks:
        if name not in NETWORKS:
            raise UserError(f"unknown network '{name}'; choose one of {', '.join(list_models())}")
    rows = (_row(name, args) for name in args.networks or list_models())
    if args.json:
        print(json.dumps(list(rows), indent=2))
        return
    for index, row in enumerate(rows):
        if index == 0:
            print(_ROW.format(**_HEADINGS))
        print(_line(row), flush=True)


def _row(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """The columns of one network."""
    network = NETWORKS[name]
    with torch.device("meta"):  # weights without memory
        model = create_model(
            name,
            num_classes=args.num_classes,
            backbone=args.backbone,
            output_stride=args.output_stride,
            pretrained=False,
        )
    test = estimate(model, args.size)
    train = estimate(model, args.size, batch=args.batch, training=True)
    return {
        "name": name,
        "paper": network.paper,
        "year": network.year,
        "attention": network.attention,
        "variants": list(network.variants),
        "backbone": args.backbone,
        "size": list(args.size),
        "batch": args.batch,
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
