"""``scenewise export``: write models in the formats of other runtimes."""

import argparse
from pathlib import Path
from typing import get_args

from rich.console import Console

from scenewise.exports.export import SUFFIXES, Export, check_target, export_model
from scenewise.exports.hub import push_to_hub
from scenewise.exports.trace import Postprocess
from scenewise.models.checkpoints import load_model

_EXAMPLES = """\
examples:
  scenewise export RUN_FOLDER danet.onnx
  scenewise export RUN_FOLDER danet.onnx --postprocess labels
  scenewise export RUN_FOLDER danet.xml
  scenewise export RUN_FOLDER danet.pt2
  scenewise export RUN_FOLDER danet --push-to-hub NAME/danet

The suffix of FILE sets the format: .onnx, .pt2 (torch.export), .xml (OpenVINO, with a .bin file);
without suffix a folder with config.json and model.safetensors. Batch, height and width are dynamic.
The graph takes normalised images (B, 3, H, W), float32, and returns logits; with --postprocess it
takes RGB images (B, H, W, 3), uint8. Every file is run in its own runtime on two sizes and compared
with the model; if outputs differ, nothing is written. Needs pip install 'scenewise[export]'.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``scenewise export``."""
    parser.epilog = _EXAMPLES
    parser.add_argument("model", metavar="MODEL", help="model folder, run folder or checkpoint")
    parser.add_argument("file", type=Path, metavar="FILE", help=f"{', '.join(SUFFIXES)} or folder")
    parser.add_argument(
        "--postprocess",
        choices=get_args(Postprocess),
        help="take uint8 images, normalise them inside, and return this",
    )
    parser.add_argument(
        "--opset", type=int, help="of ONNX; default 18; from 23 on attention is one operator"
    )
    parser.add_argument(
        "--push-to-hub", metavar="NAME", help="then upload it to this repository of Hugging Face"
    )


def run(args: argparse.Namespace) -> None:
    """Write, compare and report; upload if asked to."""
    check_target(args.file, args.postprocess, args.opset)
    model = load_model(args.model)
    with Console(stderr=True).status(f"writing {args.file}, and running it on two sizes"):
        export = export_model(model, args.file, args.postprocess, args.opset)
    print(_summary(export))
    if args.push_to_hub is not None:
        print(f"uploaded: {push_to_hub(export, model, args.push_to_hub)}")


def _summary(export: Export) -> str:
    """Input, output, differences from the model, and the files."""
    metadata = export.metadata
    names = [name for name in ("input", "output", "opset", "attention") if name in metadata]
    lines: dict[str, list[str]] = {
        **{name: [metadata[name]] for name in names},
        "compared": [str(difference) for difference in export.differences],
        "written": [str(file) for file in export.files],
    }
    return "\n".join(f"{name:10}{text}" for name, texts in lines.items() for text in texts)
