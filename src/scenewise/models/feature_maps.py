"""Heads without their backbone: which feature maps they read, and a network of them alone."""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scenewise.models.segmenter import Segmenter, evaluating


def used_maps(model: Segmenter, features: Sequence[Tensor]) -> list[int]:
    """Indices of the feature maps on whose values the outputs of the heads depend.

    Args:
        model: its heads are copied, and run in training mode.
        features: of the backbone, (B, C_i, h_i, w_i) each.

    >>> from scenewise.models import create_model
    >>> model = create_model("fcn_plus", num_classes=2, backbone="tiny")
    >>> used_maps(model, model.backbone(torch.randn(2, 3, 32, 32)))
    [1, 2]
    """
    parts = nn.ModuleList(part for part in (model.head, model.auxiliary_head) if part is not None)
    heads = copy.deepcopy(parts).train().float()
    maps = [x.detach().float() for x in features]
    if len(maps[0]) < 2:  # batch norm after global pooling needs two
        maps = [x.expand(2, -1, -1, -1) for x in maps]
    expected, used = _outputs(heads, maps), []
    for index in range(len(maps)):
        changed = [*maps]
        changed[index] = torch.full_like(maps[index], math.nan)
        pairs = zip(_outputs(heads, changed), expected, strict=True)
        if not all(torch.equal(one, other) for one, other in pairs):
            used.append(index)
    return used


@torch.no_grad()
def _outputs(heads: nn.ModuleList, maps: list[Tensor]) -> list[Tensor]:
    """All outputs; the heads and the random state are left as they were."""
    state = copy.deepcopy(heads.state_dict())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # dropout
        outs = [head(maps) for head in heads]
    heads.load_state_dict(state)
    return [t for o in outs for t in (o.logits, *o.auxiliary.values(), *o.penalties.values())]


def heads_alone(model: Segmenter, size: tuple[int, int]) -> Segmenter:
    """The heads of ``model``, which it shares, on feature maps of zeros for images of ``size``.

    Its cost is that of a training on cached features; see :func:`scenewise.models.cost.estimate`.

    >>> from scenewise.models import create_model
    >>> model = create_model("fcn", num_classes=2, backbone="tiny")
    >>> heads = heads_alone(model, (32, 48))
    >>> heads(torch.zeros(1, 3, 32, 48)).logits.shape
    torch.Size([1, 2, 32, 48])
    >>> heads.head is model.head, len(list(heads.backbone.parameters()))
    (True, 0)
    """
    first = next(model.parameters())
    images = torch.zeros(1, model.preprocessing.in_channels, *size).to(first)
    with evaluating(model), torch.no_grad():
        shapes = [x.shape[1:] for x in model.features(images)]
    return Segmenter(
        _Zeros(shapes, getattr(model.backbone, "multiple", 1)),
        model.head,
        model.auxiliary_head,
        classes=model.classes,
        preprocessing=model.preprocessing,
        align_corners=model.align_corners,
        loss_weights=model.loss_weights,
    )


class _Zeros(nn.Module):
    """A backbone that returns zeros, (B, *shape) each."""

    def __init__(self, shapes: list[torch.Size], multiple: int) -> None:
        super().__init__()
        self.shapes, self.multiple = shapes, multiple

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images.new_zeros(len(images), *shape) for shape in self.shapes]
