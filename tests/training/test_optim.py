"""The learning rate at known steps, of layers and of gammas."""

import pytest
import torch

from scenewise.errors import UserError
from scenewise.models import create_model
from scenewise.training.optim import (
    gammas,
    parameter_groups,
    poly,
    poly_schedule,
    start_gammas,
)


def test_poly_at_known_steps() -> None:
    # 0.5^0.9 = 0.535887, 0.1^0.9 = 0.125893
    assert poly(0, 1000) == 1
    assert poly(500, 1000) == pytest.approx(0.535887, abs=1e-6)
    assert poly(900, 1000) == pytest.approx(0.125893, abs=1e-6)
    assert poly(1000, 1000) == 0
    assert poly(250, 1000, power=2) == pytest.approx(0.5625)


def test_floor_is_the_end_and_scales_the_rest() -> None:
    assert poly(0, 10, floor=0.2) == pytest.approx(1)
    assert poly(5, 10, power=1, floor=0.2) == pytest.approx(0.6)
    assert poly(10, 10, floor=0.2) == poly(11, 10, floor=0.2) == 0.2


def test_warmup_rises_to_the_curve() -> None:
    rates = [poly(t, 100, warmup=4) / poly(t, 100) for t in range(6)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_schedule_moves_every_group() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.01, 0.1)]
    optimizer = torch.optim.SGD(groups)
    schedule = poly_schedule(optimizer, 3, power=1)
    seen = []
    for _ in range(4):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    expected = [[f * 0.01, f * 0.1] for f in (1, 2 / 3, 1 / 3, 0)]
    assert torch.allclose(torch.tensor(seen), torch.tensor(expected))


def test_layers_decay_from_the_last_to_the_first() -> None:
    model = create_model("danet", num_classes=2, backbone="vit_tiny_patch16_224", pretrained=False)
    groups = parameter_groups(model, 0.1, 10, layer_decay=0.5, weight_decay=0.01)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    net = model.backbone.net.model
    assert rate[id(net.patch_embed.proj.weight)] == pytest.approx(0.1 * 0.5**12)
    for index, block in enumerate(net.blocks):
        assert rate[id(block.mlp.fc2.weight)] == pytest.approx(0.1 * 0.5 ** (11 - index))
    assert rate.keys() == {id(p) for p in model.parameters()}
    assert groups[-1]["lr"] == 1.0
    for group in groups[:-1]:
        assert {p.ndim <= 1 for p in group["params"]} == {group["weight_decay"] == 0}


def test_gammas_have_a_rate_of_their_own() -> None:
    model = create_model("danet", num_classes=2, backbone="tiny", pretrained=False)
    start_gammas(model, 0.5)
    scales = gammas(model)
    assert [scale.item() for scale in scales.values()] == [0.5, 0.5]
    groups = parameter_groups(model, 0.1, 2, gamma_rate=10)
    assert [id(p) for p in groups[-1]["params"]] == [id(p) for p in scales.values()]
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


@pytest.mark.parametrize("option", [{"layer_decay": 0.75}, {"gamma_rate": 10.0}])
def test_what_a_network_lacks_is_refused(option: dict[str, float]) -> None:
    model = create_model("fcn", num_classes=2, backbone="tiny", pretrained=False)
    with pytest.raises(UserError, match=f"--model.{next(iter(option))}"):
        parameter_groups(model, 0.1, 2, **option)
    with pytest.raises(UserError, match="no gamma"):
        start_gammas(model, 1.0)
