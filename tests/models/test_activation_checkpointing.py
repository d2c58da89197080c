"""Activation checkpointing: the same gradients, the same statistics, less memory."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from scenewise.errors import UserError
from scenewise.models.activation_checkpointing import recompute_backbone
from scenewise.models.backbone import create_backbone
from tests.attention.contract import peak_bytes


def step(backbone: nn.Module, images: Tensor) -> None:
    sum(m.square().mean() for m in backbone(images)).backward()  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["tiny", "resnet18", "test_convnext", "mobilenetv2_050"])
def test_gradients_and_statistics_are_the_same(name: str) -> None:
    plain = create_backbone(name).double().train()
    saving = deepcopy(plain)
    recompute_backbone(saving)
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    for backbone in (plain, saving):
        for _ in range(2):
            torch.manual_seed(0)  # stochastic depth
            step(backbone, images)
    for (key, a), b in zip(saving.named_parameters(), plain.parameters(), strict=True):
        assert_close(a.grad, b.grad, msg=key)
    assert_close(dict(saving.named_buffers()), dict(plain.named_buffers()))
    assert_close(saving.eval()(images), plain.eval()(images))


def test_memory_is_less() -> None:
    plain = create_backbone("resnet18").train()
    saving = deepcopy(plain)
    recompute_backbone(saving)
    images = torch.randn(4, 3, 256, 256)  # large beside the memory of a convolution
    for backbone in (plain, saving):
        step(backbone, images)  # allocates the gradients
    peaks = [peak_bytes(lambda b=b: step(b, images)) for b in (plain, saving)]
    assert peaks[1] < 0.7 * peaks[0]


def test_a_copy_computes_with_its_own_weights() -> None:
    backbone = create_backbone("tiny").train()
    recompute_backbone(backbone)
    other = deepcopy(backbone)
    nn.init.zeros_(other.stages[0][0][0].weight)
    images = torch.randn(2, 3, 32, 32)
    assert not torch.equal(other(images)[0], backbone(images)[0])


def test_a_backbone_without_blocks_is_reported() -> None:
    with pytest.raises(UserError, match="no blocks"):
        recompute_backbone(nn.Sequential(nn.Conv2d(3, 4, 1)))
