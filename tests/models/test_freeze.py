"""A frozen backbone is left as it is, without a backward pass."""

import torch

from scenewise.models import create_model
from scenewise.models.freeze import freeze, hold_statistics


def test_no_graph_goes_through_a_frozen_backbone() -> None:
    """The features have no graph, and only the head's parameters are reached from the loss."""
    model = create_model("danet_plus", num_classes=2, backbone="test_resnet", pretrained=False)
    freeze(model, "backbone")
    hold_statistics(model)
    images = torch.randn(2, 3, 64, 64)
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    assert all(x.grad_fn is None for x in model.backbone(images))
    model(images).logits.sum().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert any(p.grad is not None for p in model.head.parameters())
    after = model.backbone.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
