"""Estimated costs against values by hand and against the measured peak memory of the CPU."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from scenewise import create_model
from scenewise.attention import criss_cross_attention, position_attention
from scenewise.models.activation_checkpointing import recompute_backbone
from scenewise.models.cost import estimate
from scenewise.training.losses import segmentation_loss
from tests.attention.contract import peak_bytes
from tests.models.networks import ON_TINY


class CustomOperators(TorchDispatchMode):
    """Records which custom operators of this project ran."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "scenewise":
            self.seen.add(func.overloadpacket)
        return func(*args, **(kwargs or {}))


def step(model: Any, images: Tensor) -> Tensor:
    """A training step as the task does it; its loss."""
    output, size = model.low_res(images)
    target = torch.zeros(len(images), *size, dtype=torch.int64)
    weights = dict.fromkeys([*output.auxiliary, *output.penalties], 1.0)
    losses = segmentation_loss(
        output, target, weights, upsample=lambda scores: model.upsample(scores, size)
    )
    losses.total.backward()
    return losses.total


@pytest.mark.parametrize("name", ["ccnet", "danet", "interaction", "pspnet", "sagan"])
def test_memory_is_what_the_cpu_holds(name: str) -> None:
    """Within a tenth, or the copy of a weight that a kernel may make."""
    model, images = create_model(name, num_classes=5, backbone="tiny"), torch.randn(2, 3, 64, 96)
    scratch = max(p.nbytes for p in model.parameters())
    tested = estimate(model, (64, 96), 2).activation_bytes
    trained = estimate(model, (64, 96), 2, training=True).activation_bytes
    with torch.no_grad():
        held = peak_bytes(lambda: model.eval()(images))
    assert tested == pytest.approx(held, rel=0.1, abs=scratch)
    held = peak_bytes(lambda: step(model.train(), images))
    assert trained == pytest.approx(held, rel=0.1, abs=scratch)


@pytest.mark.parametrize("name", ON_TINY)
def test_a_step_on_the_meta_device_counts_as_estimated(name: str) -> None:
    """Also, every custom kernel has a FLOP formula: PyTorch's counter knows all of a network."""
    with torch.device("meta"), CustomOperators() as custom, FlopCounterMode(display=False) as flops:
        model = create_model(name, num_classes=5, backbone="tiny")
        assert step(model, torch.empty(2, 3, 64, 96)).is_meta
    assert custom.seen <= set(flop_registry)
    assert flops.get_total_flops() == estimate(model, (64, 96), 2, training=True).flops


@pytest.mark.parametrize("name", ["ccnet", "danet"])
def test_flops_are_those_that_pytorch_counts_in_a_forward_pass(name: str) -> None:
    model = create_model(name, num_classes=5, backbone="tiny").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        model(torch.randn(2, 3, 40, 56))
    assert estimate(model, (40, 56), 2).flops == flops.get_total_flops()


def test_flops_of_a_convolutional_network() -> None:
    """Two for each weight, each output pixel and each image."""
    model = create_model("fcn", num_classes=5, backbone="tiny")
    shapes = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(
                lambda _m, _i, out, name=name: shapes.__setitem__(name, out.shape)
            )
    model.eval()(torch.randn(3, 3, 40, 56))
    expected = sum(
        2 * model.get_submodule(name).weight.numel() * shape[0] * shape[2] * shape[3]
        for name, shape in shapes.items()
    )
    assert estimate(model, (40, 56), 3).flops == expected


def counted(run: Any, *inputs: Tensor) -> tuple[int, int]:
    """FLOPs of the forward and of the backward pass of a function."""
    with FlopCounterMode(display=False) as counter:
        out = run(*inputs)
        forward = counter.get_total_flops()
        out.sum().backward()
    return forward, counter.get_total_flops() - forward


def test_flops_of_position_attention_are_those_of_the_dense_form() -> None:
    """The backward pass recomputes the energies."""
    q, k, v = (torch.randn(2, n, d, requires_grad=True) for n, d in ((35, 4), (33, 4), (33, 16)))
    forward, backward = counted(lambda q, k, v: (q @ k.transpose(1, 2)).softmax(-1) @ v, q, k, v)
    energies = 2 * 2 * 35 * 33 * 4
    assert counted(position_attention, q, k, v) == (forward, backward + energies)


def test_flops_of_criss_cross_attention_by_hand() -> None:
    """2 images of 5 x 7, 12 pairs of a pixel, 4 and 16 channels."""
    q, k, v = (torch.randn(2, d, 5, 7, requires_grad=True) for d in (4, 4, 16))
    pairs = 2 * 35 * 12
    expected = (2 * pairs * (4 + 16), 2 * pairs * (3 * 4 + 2 * 16))
    assert counted(criss_cross_attention, q, k, v) == expected


def test_state_is_weights_and_momentum() -> None:
    model = create_model("danet", num_classes=5, backbone="tiny")
    weights = sum(p.numel() for p in model.parameters())
    tested, trained = estimate(model, (32, 48), 2), estimate(model, (32, 48), 2, training=True)
    assert tested.parameters == weights
    assert tested.state_bytes == sum(t.nbytes for t in model.state_dict().values())
    assert trained.state_bytes - tested.state_bytes == 4 * weights
    assert tested.bytes == tested.state_bytes + tested.activation_bytes


def test_memory_grows_with_the_batch_and_shrinks_under_autocast() -> None:
    model = create_model("danet", num_classes=5, backbone="tiny")
    two, four = (estimate(model, (96, 128), batch, True).activation_bytes for batch in (2, 4))
    assert 1.9 < four / two < 2.1
    assert 0.4 < estimate(model, (96, 128), 4, True, mixed=True).activation_bytes / four < 0.8


def test_the_model_is_left_as_it_was() -> None:
    model = create_model("danet", num_classes=5, backbone="tiny").train()
    model.backbone.eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    estimate(model, (32, 48), 2, training=True)
    estimate(model, (32, 48), 2)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_activation_checkpointing_needs_less_memory_and_more_flops() -> None:
    model = create_model("danet", num_classes=5, backbone="resnet18", pretrained=False)
    usual = estimate(model, (192, 256), 2, training=True)
    recompute_backbone(model.backbone)
    again = estimate(model, (192, 256), 2, training=True)
    assert again.activation_bytes < 0.9 * usual.activation_bytes
    assert 1.1 * usual.flops < again.flops < 1.4 * usual.flops
