"""The learning rate at known steps."""

import pytest
import torch

from scenewise.training.optim import poly, poly_schedule


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
