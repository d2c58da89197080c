from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from scenewise.attention import CBAM, SqueezeExcite
from scenewise.attention.layers import conv_norm
from tests.attention.contract import EXACT, randomise


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 4), (5, 2)])
@pytest.mark.parametrize("bias", [False, True])
def test_convolution_of_the_same_size_then_norm_then_activation(
    kernel: int, dilation: int, bias: bool
) -> None:
    layers: Any = conv_norm(4, 6, kernel, dilation=dilation, bias=bias, slope=0.2).double()
    randomise(layers).eval()
    assert (layers[0].bias is not None) == bias
    x, margin = torch.randn(2, 4, 9, 11, dtype=torch.float64), dilation * (kernel // 2)
    weight, shift = layers[0].weight, layers[0].bias
    out = F.conv2d(F.pad(x, (margin,) * 4), weight, shift, dilation=dilation)
    n = layers[1]
    out = (out - n.running_mean[:, None, None]) / (n.running_var + 1e-5).sqrt()[:, None, None]
    out = out * n.weight[:, None, None] + n.bias[:, None, None]
    assert_close(layers(x), torch.where(out > 0, out, 0.2 * out), **EXACT)


def test_defaults_are_1x1_without_bias_with_relu() -> None:
    layers: Any = conv_norm(4, 6)
    assert layers[0].kernel_size == (1, 1)
    assert layers[0].bias is None
    assert isinstance(layers[2], nn.ReLU)
    assert len(conv_norm(4, 6, slope=None)) == 2


@pytest.mark.parametrize("slope", [0.0, 0.01])
def test_the_activation_is_in_place(slope: float) -> None:
    """Training stores one feature map for norm and activation together."""
    layers = conv_norm(4, 6, slope=slope)
    seen: list[torch.Tensor] = []
    layers[1].register_forward_hook(lambda module, inputs, out: seen.append(out))
    assert layers(torch.randn(2, 4, 5, 7)).data_ptr() == seen[0].data_ptr()


@pytest.mark.parametrize("block", [SqueezeExcite(16, 4), CBAM(16, 4)])
def test_gates_are_traced_symbolically(block: nn.Module) -> None:
    """For feature extraction and quantisation with torch.fx, where the axes are unknown."""
    traced, x = torch.fx.symbolic_trace(block.eval()), torch.randn(2, 16, 5, 7)
    assert torch.equal(traced(x), block(x))
    with pytest.raises(ValueError, match=r"give x\[None\]"):
        traced(x[0])
