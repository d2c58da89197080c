"""torchvision's own networks have the same logits with the same weights."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchvision.models.segmentation import deeplabv3_resnet50, fcn_resnet50

from scenewise import create_model


@pytest.mark.parametrize(
    ("name", "original"), [("deeplabv3", deeplabv3_resnet50), ("fcn", fcn_resnet50)]
)
def test_same_weights_same_logits(name: str, original: type) -> None:
    published = original(weights=None, weights_backbone=None, num_classes=3, aux_loss=True)
    for norm in (m for m in published.modules() if isinstance(m, nn.BatchNorm2d)):
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 1.0)
    model = create_model(
        name, num_classes=3, variant="torchvision", backbone="resnet50", pretrained=False
    )
    tensors = published.state_dict().values()
    model.load_state_dict(dict(zip(model.state_dict(), tensors, strict=True)))
    images = torch.randn(1, 3, 33, 49)
    with torch.no_grad():
        expected = published.eval()(images)
        assert_close(model.eval()(images).logits, expected["out"], rtol=1e-4, atol=1e-5)
        auxiliary = model.auxiliary_head(model.backbone(images)).logits
        assert_close(model.upsample(auxiliary, (33, 49)), expected["aux"], rtol=1e-4, atol=1e-5)
