"""Heads without their backbone: which feature maps they read."""

import pytest
import torch
from torch import Tensor

from scenewise.models import create_model
from scenewise.models.cost import estimate
from scenewise.models.feature_maps import heads_alone, used_maps
from scenewise.models.freeze import freeze, hold_statistics
from tests.models.networks import ON_TINY


@pytest.mark.parametrize("name", ON_TINY)
def test_every_head_gets_the_maps_that_it_reads(name: str) -> None:
    """Auxiliary heads included: what is left out has no gradient, and changes no logits."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, backbone="tiny", pretrained=False, auxiliary=True)
    freeze(model, "backbone")
    model.train()
    hold_statistics(model)
    maps = [x.requires_grad_() for x in model.backbone(torch.randn(2, 3, 32, 40))]
    used = used_maps(model, maps)
    out = model.decode(maps)
    total = sum(t.sum() for t in (out.logits, *out.auxiliary.values(), *out.penalties.values()))
    assert isinstance(total, Tensor)
    gradients = torch.autograd.grad(total, maps, allow_unused=True)
    assert {i for i, g in enumerate(gradients) if g is not None} <= set(used)
    assert used


def test_the_cost_of_heads_alone_is_that_of_the_network_without_its_backbone() -> None:
    model = create_model("danet_plus", num_classes=3, backbone="tiny", pretrained=False)
    freeze(model, "backbone")
    whole, heads = (estimate(m, (32, 48), 2) for m in (model, heads_alone(model, (32, 48))))
    convolutions = [m for m in model.backbone.modules() if isinstance(m, torch.nn.Conv2d)]
    strides = [2, 2, 4, 4, 8]  # of the output of each
    pixels = [2 * (32 // s) * (48 // s) for s in strides]
    pairs = zip(convolutions, pixels, strict=True)
    assert whole.flops - heads.flops == sum(2 * n * c.weight.numel() for c, n in pairs)
    assert heads.parameters < whole.parameters
