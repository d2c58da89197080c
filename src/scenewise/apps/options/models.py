"""The options of ``scenewise models``."""

import argparse
from typing import Any

SETTINGS: dict[str, Any] = {
    "size": (512, 512),
    "backbone": "resnet50",
    "output_stride": 8,
    "num_classes": 19,
    "batch": 2,
}
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
more. Networks are in their first variant, the default of create_model. The numbers of the default
options come with the package; others are computed, which takes seconds for each network.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``scenewise models``."""
    parser.epilog = _EXAMPLES
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="only these; default all")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="of the images")
    parser.add_argument("--backbone", help="'tiny' or a timm model; default resnet50")
    parser.add_argument("--output-stride", type=int, choices=(8, 16, 32), help="default 8")
    parser.add_argument("--num-classes", type=int, metavar="K", help="default 19")
    parser.add_argument("--batch", type=int, metavar="B", help="images of a training step")
    parser.set_defaults(**SETTINGS)
    parser.add_argument("--json", action="store_true", help="a list of objects instead of a table")
