"""Depthwise convolutions with a fast backward pass against PyTorch's own."""

import copy

import pytest
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

from scenewise import create_model
from scenewise.models.optimize.depthwise import depthwise_conv, fast_depthwise

CONVOLUTIONS = {
    "plain": lambda: nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False),
    "bias": lambda: nn.Conv2d(3, 3, 5, padding=2, groups=3),
    "valid": lambda: nn.Conv2d(3, 3, 3, groups=3),
    "dilated": lambda: nn.Conv2d(3, 3, 5, padding=4, dilation=2, groups=3),
    "strided": lambda: nn.Conv2d(3, 3, 3, stride=2, padding=1, groups=3),
    "stride 3": lambda: nn.Conv2d(3, 3, 5, stride=3, padding=2, groups=3),
    "strided and dilated": lambda: nn.Conv2d(3, 3, 3, 2, padding=2, dilation=2, groups=3),
    "same": lambda: Conv2dSame(3, 3, 5, stride=2, groups=3, bias=False),
}


def gradients(convolution: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, and the gradients of the input and of the parameters."""
    x = x.clone().requires_grad_()
    y = convolution(x)
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
    return [y, *torch.autograd.grad((y * weights).sum(), [x, *convolution.parameters()])]


@pytest.mark.parametrize("size", [(11, 7), (8, 10), (13, 6)])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_equals_pytorch(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    expected = CONVOLUTIONS[name]().double()
    actual = copy.deepcopy(expected)
    assert fast_depthwise(actual) == 1
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    for a, b in zip(gradients(actual, x), gradients(expected, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(4, 4, 1, groups=4),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, padding=3, groups=4),
        nn.Conv2d(4, 4, (3, 5), groups=4),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", groups=4),
    ],
)
def test_other_convolutions_stay(other: nn.Conv2d) -> None:
    assert fast_depthwise(other) == 0
    assert type(other) is nn.Conv2d


def test_second_derivatives_are_refused_not_wrong() -> None:
    x = torch.randn(1, 2, 5, 5, requires_grad=True)
    [gradient] = torch.autograd.grad(
        depthwise_conv(x, torch.randn(2, 1, 3, 3)).square().sum(), x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_network_trains_alike_and_keeps_its_names() -> None:
    torch.manual_seed(0)
    options = {"num_classes": 3, "backbone": "tf_efficientnet_lite0", "pretrained": False}
    expected = create_model("fcn_plus", output_stride=16, dropout=0.0, **options)
    actual = copy.deepcopy(expected)
    assert fast_depthwise(actual) == 16 + 2  # blocks, and the decoder's
    assert actual.state_dict().keys() == expected.state_dict().keys()
    x = torch.randn(2, 3, 64, 96).contiguous(memory_format=torch.channels_last)
    for a, b in zip(gradients_of(actual, x), gradients_of(expected, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def gradients_of(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The gradients of all parameters after one forward and backward pass."""
    model.double()(x.double()).logits.square().mean().backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def test_half_precision_under_autocast() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
    x = torch.randn(2, 8, 9, 11)
    expected = gradients(convolution, x)
    fast_depthwise(convolution)
    with torch.autocast("cpu", torch.bfloat16):
        y, of_x, of_weight = gradients(convolution, x)
    assert y.dtype == torch.bfloat16
    assert of_x.dtype == of_weight.dtype == torch.float32
    for a, b in zip((y, of_x, of_weight), expected, strict=True):
        assert (a.float() - b).norm() < 0.01 * b.norm()
