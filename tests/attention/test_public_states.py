"""Trained modules of the widespread code load into the blocks, alone; the outputs are equal."""

import pytest
import torch
from torch import Tensor, nn

from scenewise.attention import ChannelAttention, CrissCrossAttention, PositionAttention


class PAM_Module(nn.Module):
    """DANet's position attention, from its description."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels // 8, 1)
        self.key_conv = nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.rand(1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            conv(x).flatten(2) for conv in (self.query_conv, self.key_conv, self.value_conv)
        )
        weights = (query.transpose(1, 2) @ key).softmax(-1)
        return self.gamma * (value @ weights.transpose(1, 2)).view(x.shape) + x


class CrissCross(PAM_Module):
    """One round of CCNet's attention: dense attention with a mask."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        rows = torch.arange(height).repeat_interleave(width)
        columns = torch.arange(width).repeat(height)
        near = (rows[:, None] == rows) | (columns[:, None] == columns)
        query, key, value = (
            conv(x).flatten(2) for conv in (self.query_conv, self.key_conv, self.value_conv)
        )
        energy = (query.transpose(1, 2) @ key).masked_fill(~near, float("-inf"))
        weights = energy.softmax(-1)
        return self.gamma * (value @ weights.transpose(1, 2)).view(x.shape) + x


class CAM_Module(nn.Module):
    """DANet's channel attention, from its description."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        energy = flat @ flat.transpose(1, 2)
        weights = (energy.amax(-1, keepdim=True) - energy).softmax(-1)
        return self.gamma * (weights @ flat).view(x.shape) + x


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 24, 5, 7, dtype=torch.float64)


def equal(block: nn.Module, public: nn.Module, x: Tensor) -> None:
    out, expected = block.double()(x), public.double()(x)
    assert (out - expected).abs().max() < 1e-12 * expected.abs().max()
    assert (out - x).abs().max() > 0.01  # gamma is not 0


def test_position_attention(x: Tensor) -> None:
    public = PAM_Module(24)
    equal(PositionAttention.from_public(public.state_dict()), public, x)


def test_channel_attention(x: Tensor) -> None:
    public = CAM_Module()
    equal(ChannelAttention.from_public(public.state_dict()), public, x)


def test_criss_cross_attention(x: Tensor) -> None:
    public = CrissCross(24)
    equal(CrissCrossAttention.from_public(public.state_dict()), public, x)
    twice = CrissCrossAttention.from_public(public.state_dict(), recurrence=2).double()
    assert (twice(x) - public(public(x))).abs().max() < 1e-12 * x.abs().max()


def test_gamma_of_mmcv_has_no_axis() -> None:
    state = dict(PAM_Module(24).state_dict())
    state["gamma.scale"] = state.pop("gamma")[0]
    for block in (PositionAttention, CrissCrossAttention):
        loaded = block.from_public(state)
        assert torch.equal(loaded.gamma, state["gamma.scale"].view(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": None}, r"the state has gamma of shape None, the block \(1,\)"),
        ({"other": torch.ones(1)}, r"has other of shape \(1,\), the block None"),
        ({"value_conv.weight": torch.ones(3)}, r"has value.weight of shape \(3,\)"),
        ({"query_conv.weight": None}, "no query_conv.weight; give the attention's state alone"),
    ],
)
def test_other_states_are_refused(change: dict[str, Tensor | None], message: str) -> None:
    state = {k: v for k, v in (PAM_Module(24).state_dict() | change).items() if v is not None}
    for block in (PositionAttention, CrissCrossAttention):
        with pytest.raises(ValueError, match=message):
            block.from_public(state)
