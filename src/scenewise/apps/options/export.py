"""The options of ``scenewise export``."""

import argparse
from pathlib import Path

from scenewise.apps.options.source import names

_EXAMPLES = """\
examples:
  scenewise export RUN_FOLDER danet.onnx
  scenewise export RUN_FOLDER danet.onnx --postprocess labels
  scenewise export RUN_FOLDER danet.xml
  scenewise export RUN_FOLDER danet.pt2
  scenewise export RUN_FOLDER danet --push-to-hub NAME/danet --licence apache-2.0

The suffix of FILE sets the format: .onnx, .pt2 (torch.export), .xml (OpenVINO, with a .bin file);
without suffix a folder with config.json and model.safetensors. Batch, height and width are dynamic.
The graph takes normalised images (B, 3, H, W), float32, and returns logits; with --postprocess it
takes RGB images (B, H, W, 3), uint8. Every file is run in its own runtime on two sizes and compared
with the model; if outputs differ, nothing is written. Needs pip install 'scenewise[export]'.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``scenewise export``."""
    parser.epilog = _EXAMPLES
    suffixes = ", ".join(names("scenewise.exports.export", "SUFFIXES"))
    models = "model folder, run folder, checkpoint or hf-hub:OWNER/NAME"
    parser.add_argument("model", metavar="MODEL", help=models)
    parser.add_argument("file", type=Path, metavar="FILE", help=f"{suffixes} or folder")
    parser.add_argument(
        "--postprocess",
        choices=names("scenewise.exports.trace", "Postprocess"),
        help="take uint8 images, normalise them inside, and return this",
    )
    parser.add_argument(
        "--opset", type=int, help="of ONNX; default 18; from 23 on attention is one operator"
    )
    hub = parser.add_argument_group("upload to the Hugging Face hub")
    hub.add_argument(
        "--push-to-hub",
        metavar="NAME",
        help="then upload it to this repository, owner/name, with a model card",
    )
    hub.add_argument(
        "--licence",
        "--license",
        metavar="ID",
        help="of the model, required: apache-2.0, mit, cc-by-4.0, other, ...",
    )
    hub.add_argument(
        "--metrics",
        type=Path,
        metavar="FILE",
        help="scores for the card; default metrics.json in MODEL",
    )
    hub.add_argument(
        "--dataset", metavar="NAME", help="dataset of the scores on the hub, owner/name"
    )
    hub.add_argument(
        "--overlay", type=Path, metavar="IMAGE", help="show this image with its labels on the card"
    )
    hub.add_argument("--private", action="store_true", help="create a private repository")
