"""The authors' EMANet (XiaLiPKU/EMANet), on a ResNet with a deep stem in a numbered sequence."""

from torch import Tensor

from scenewise.classes import likely_classes
from scenewise.models.convert.spec import (
    RGB_1,
    Design,
    Family,
    Options,
    Source,
    arguments,
    find_backbone,
    settle,
)

_HEAD = {
    "fc0.conv": "head.context.reduce.0",
    "fc0.bn": "head.context.reduce.1",
    "emau.mu": "head.context.block.bases",
    "emau.conv1": "head.context.block.first",
    "emau.conv2.0": "head.context.block.last",
    "emau.conv2.1": "head.context.block.norm",
    "fc1.0.conv": "head.context.refine.0",
    "fc1.0.bn": "head.context.refine.1",
    "fc2": "head.classify.1",
}
_GRIDS = {8: (2, 8, 16), 16: (1, 4, 8)}  # the first block has the dilation of the stage before


def _design(source: Source, options: Options) -> Design:
    """EMANet; its images are normalised as the later release does, by the standard deviation."""
    backbone, mapping = find_backbone(source, "extractor.")
    stride = options.output_stride or 8
    settings = settle(
        options,
        multi_grid=_GRIDS.get(stride, ()),
        align_corners=True,
        output_stride=8,
        stages=3,
    )
    return Design(
        "emanet",
        "official",
        backbone,
        mapping | _HEAD,
        likely_classes(source.rows("fc2.weight")),
        RGB_1,
        {**arguments(settings), "auxiliary": False},
        import_tensor=_import_tensor,
        settings=settings,
    )


def _import_tensor(key: str, tensor: Tensor) -> Tensor:
    """The bases are stored (1, C, K); they are (K, C) here."""
    return tensor[0].t() if key == "emau.mu" and tensor.ndim == 3 else tensor


FAMILIES = {
    "emanet": Family("the authors' EMANet", lambda keys: "emau.mu" in keys, _design),
}
