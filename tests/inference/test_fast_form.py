"""The fast copy gives the labels of the network, follows its changes, and steps aside for hooks."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from scenewise import Predictor
from scenewise.inference.fast_form import FastForm
from scenewise.models.optimize.winograd import Winograd
from scenewise.models.segmenter import Segmenter
from scenewise.visualize.attention_maps import attention_maps
from tests.models.optimize.test_fuse import trained

# Of the scores, in float32: Winograd's error is about 1e-6 of the largest output of a layer, folded
# batch norms round each product once more; a dozen layers add up to below 1e-4 (see `_TOLERANCE` of
# models/optimize/fuse.py). A label may differ only where two scores are that close.
_ROUNDING = 1e-4


@pytest.fixture(scope="module")
def danet() -> Segmenter:
    """With wide convolutions, which the fast copy computes by Winograd's algorithm."""
    return trained("danet", "resnet18", output_stride=16)


@pytest.fixture
def tiny() -> Segmenter:
    return trained("danet", "tiny")


@pytest.fixture
def image() -> Tensor:
    return torch.rand(3, 49, 67, generator=torch.Generator().manual_seed(3))


def test_labels_and_scores_are_those_of_the_network(danet: Segmenter, image: Tensor) -> None:
    fast, plain = Predictor(danet), Predictor(danet, fast=False)
    assert any(isinstance(m, Winograd) for m in fast.network.modules())
    assert plain.network is danet
    scores, expected = fast.scores(image), plain.scores(image)
    torch.testing.assert_close(scores, expected, rtol=0, atol=_ROUNDING)
    first, second = expected.topk(2, dim=0).values
    sure = first - second > 2 * _ROUNDING
    assert sure.double().mean() > 0.99
    assert torch.equal(fast(image).labels[sure], plain(image).labels[sure])


def test_the_copy_is_made_once_and_shared_by_windows(tiny: Segmenter, image: Tensor) -> None:
    predictor = Predictor(tiny)
    predictor(image)
    copy = predictor.network
    predictor.in_windows(32)(image)
    assert predictor.in_windows(32).network is predictor.network is copy


def _one_value(model: Segmenter) -> None:
    with torch.no_grad():
        model.head.classify[1].weight[1, 3] += 5


def _by_data(model: Segmenter) -> None:
    """As averaged weights are often updated; it counts no version."""
    model.head.classify[1].weight.data.mul_(-1)


def _buffer(model: Segmenter) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.add_(3)


def _loaded(model: Segmenter) -> None:
    other = {name: value * 1.5 for name, value in model.state_dict().items()}
    model.load_state_dict(other)


def _layer(model: Segmenter) -> None:
    model.head.classify[1] = nn.Conv2d(model.head.classify[1].in_channels, 5, 1)


def _setting(model: Segmenter) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 10.0


@pytest.mark.parametrize("change", [_one_value, _by_data, _buffer, _loaded, _layer, _setting])
def test_a_change_of_the_network_is_seen(
    tiny: Segmenter, image: Tensor, change: Callable[[Segmenter], None]
) -> None:
    fast = Predictor(tiny)
    before = fast.scores(image)
    change(tiny)
    expected = Predictor(tiny, fast=False).scores(image)
    assert (before - expected).abs().max() > 10 * _ROUNDING
    torch.testing.assert_close(fast.scores(image), expected, rtol=0, atol=_ROUNDING)


def test_hooks_see_the_network_itself(tiny: Segmenter, image: Tensor) -> None:
    predictor = Predictor(tiny)
    predictor(image)
    with attention_maps(tiny) as maps:
        assert predictor.network is tiny
        predictor(image)
    assert maps.blocks()
    assert predictor.network is not tiny


def test_what_has_no_fast_form_runs_itself(tiny: Segmenter) -> None:
    class Uncopyable(nn.Module):
        def __deepcopy__(self, memo: object) -> "Uncopyable":
            raise RuntimeError("holds a lock")

    observed = deepcopy(tiny)
    observed.low_res = observed.low_res  # type: ignore[method-assign] # as torch.compile is set
    locked = deepcopy(tiny)
    locked.lock = Uncopyable()
    for model in (deepcopy(tiny).double(), deepcopy(tiny).bfloat16(), observed, locked):
        assert FastForm(model).network() is model
    assert Predictor.from_protocol(tiny, "danet_ss").network is tiny


def test_random_numbers_and_modes_stay(danet: Segmenter, image: Tensor) -> None:
    model = danet.train()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Predictor(model)(image)
    assert torch.equal(torch.rand(3), expected)
    assert all(module.training for module in model.modules())
    danet.eval()
