"""The options of ``scenewise export``."""

import argparse
from pathlib import Path

from scenewise.apps.options.source import names

_EXAMPLES = """\
examples:
  scenewise export RUN_FOLDER danet.onnx
  scenewise export RUN_FOLDER danet.onnx --postprocess labels
  scenewise export RUN_FOLDER danet.xml
  scenewise export RUN_FOLDER danet.xml --precision int8 --size 512 1024
  scenewise export RUN_FOLDER danet.onnx --precision fp16 --data street --max-drop 0.2
  scenewise export RUN_FOLDER danet.pt2
  scenewise export RUN_FOLDER danet --push-to-hub NAME/danet --licence apache-2.0

The suffix of FILE sets the format: .onnx, .pt2 (torch.export), .xml (OpenVINO, with a .bin file);
without suffix a folder with config.json and model.safetensors. Batch, height and width are dynamic.
The graph takes normalised images (B, 3, H, W), float32, and returns logits; with --postprocess it
takes RGB images (B, H, W, 3), uint8. Every file is run in its own runtime on two sizes and compared
with the model; if outputs differ, nothing is written. Needs pip install 'scenewise[export]'.

--precision fp16 stores weights in half the bytes; int8 also computes in 8 bits (needs
scenewise[quantize]). The mIoU on the validation images is measured before and after: layers that
cost too much stay in float and are named, and above --max-drop nothing is written.
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
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="fixed height and width, and a batch of 1; default dynamic",
    )
    lower = parser.add_argument_group("lower precision, .onnx and .xml")
    lower.add_argument(
        "--precision",
        choices=names("scenewise.exports.gate", "Precision"),
        default="fp32",
        help="default fp32",
    )
    lower.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="labelled images, as for fit, to score and calibrate; default those of the run",
    )
    lower.add_argument(
        "--calibrate",
        type=Path,
        metavar="DIR",
        help="images for the ranges of int8; default the training images of the data",
    )
    lower.add_argument(
        "--max-drop",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="largest loss of mIoU; default 0.5",
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
