"""DPT's head against the formula of its paper, its layers, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenewise import create_model
from scenewise.errors import UserError
from scenewise.models.backbone import create_backbone
from scenewise.models.heads.dpt import DPTHead
from tests.attention.contract import randomise


def residual(x: Tensor, block: nn.Module) -> Tensor:
    y = x
    for part in (block.first, block.second):  # relu, convolution, norm, twice
        y = F.conv2d(y.relu(), part[0].weight, padding=1)
        norm = part[1]
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        y = y * scale[:, None, None] + (norm.bias - norm.running_mean * scale)[:, None, None]
    return x + y


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_equals_the_formula(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    head = DPTHead([8] * 4, 3, width=16).double().eval()
    randomise(head)
    features = [torch.randn(2, 8, *size, dtype=torch.float64) for _ in range(4)]
    layers = []
    for i, x in enumerate(features):
        x = F.conv2d(x, head.resize[i][0].weight, head.resize[i][0].bias)
        if i < 2:  # each pixel becomes a square of its own: no overlap
            up = head.resize[i][1]
            k = up.kernel_size[0]
            squares = torch.einsum("bchw,cdij->bdhiwj", x, up.weight)
            x = squares.reshape(2, -1, k * size[0], k * size[1]) + up.bias[:, None, None]
        if i == 3:
            x = F.conv2d(x, head.resize[3][1].weight, head.resize[3][1].bias, 2, 1)
        layers.append(F.conv2d(x, head.reduce[i].weight, padding=1))
    total = layers[3]
    for i in (3, 2, 1, 0):
        if i < 3:
            height, width = layers[i].shape[2:]
            total = total[..., :height, :width] + residual(layers[i], head.fuse[i].layer)
        total = residual(total, head.fuse[i].total)
        doubled = (2 * total.shape[2], 2 * total.shape[3])
        total = F.interpolate(total, doubled, mode="bilinear", align_corners=True)
        total = F.conv2d(total, head.fuse[i].out.weight, head.fuse[i].out.bias)
    expected = head.classify(head.refine(total))
    assert expected.shape == (2, 3, 8 * size[0], 8 * size[1])
    torch.testing.assert_close(head(features).logits, expected)


def test_four_layers_are_spread_over_the_transformer() -> None:
    with torch.device("meta"):
        backbone = create_backbone("vit_tiny_patch16_224", layers=4)
    assert backbone.net.feature_info.out_indices == (2, 5, 8, 11)  # type: ignore[union-attr]
    assert backbone.strides == (16,) * 4


def test_a_training_step_and_sizes_that_are_no_multiple_of_the_patch() -> None:
    options = {"num_classes": 3, "backbone": "vit_tiny_patch16_224", "pretrained": False}
    model = create_model("dpt", width=16, **options)
    logits = model(torch.randn(2, 3, 50, 67)).logits
    assert logits.shape == (2, 3, 50, 67)
    logits.square().mean().backward()
    unused = [
        name
        for name, p in model.named_parameters()
        if p.grad is None and not name.startswith("backbone.net.model.norm")
    ]
    assert unused == []


@pytest.mark.parametrize("backbone", ["resnet18", "tiny", "swin_tiny_patch4_window7_224"])
def test_other_backbones_are_refused(backbone: str) -> None:
    with pytest.raises(UserError, match="vision transformer"):
        create_model("dpt", num_classes=2, backbone=backbone, pretrained=False)
