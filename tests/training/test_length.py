"""Laws of the chosen length of a training."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenewise.errors import UserError
from scenewise.training.length import (
    Measured,
    _length_from_data,
    _validation_interval,
    seconds_of,
)


@given(st.integers(1, 20_000))
def test_the_last_step_is_validated(steps: int) -> None:
    interval = _validation_interval(steps)
    assert steps % interval == 0
    assert 1 <= steps // interval <= 20


@given(st.integers(1, 10_000), st.booleans(), st.integers(1, 8))
def test_a_chosen_length_is_bounded_and_ends_with_a_validation(
    batches: int, gpu: bool, accumulate: int
) -> None:
    chosen = _length_from_data(
        batches, gpu=gpu, max_epochs=None, max_steps=-1, accumulate=accumulate
    )
    epochs, every = chosen["max_epochs"], chosen["check_val_every_n_epoch"]
    steps = -(-batches // accumulate)
    assert epochs % every == 0
    assert epochs // every <= 40
    assert 1 <= epochs <= (240 if gpu else 40)
    assert epochs == 1 or epochs * steps <= 1.6 * (40_000 if gpu else 1_000)


@pytest.mark.parametrize("gpu", [False, True])
def test_what_the_user_gave_is_kept(gpu: bool) -> None:
    assert _length_from_data(9, gpu=gpu, max_epochs=3, max_steps=-1) == {}
    assert _length_from_data(9, gpu=gpu, max_epochs=3, max_steps=50) == {}
    assert _length_from_data(9, gpu=gpu, max_epochs=None, max_steps=0) == {}


def test_the_interval_counts_batches_not_steps() -> None:
    chosen = _length_from_data(9, gpu=False, max_epochs=None, max_steps=100, accumulate=3)
    assert chosen == {"val_check_interval": 30, "check_val_every_n_epoch": None}


@given(
    step=st.floats(1e-3, 100),
    validation=st.floats(0, 1000),
    steps=st.integers(1, 5000),
    accumulate=st.integers(1, 4),
    minutes=st.integers(1, 600),
)
def test_a_budget_is_filled_and_kept(
    step: float, validation: float, steps: int, accumulate: int, minutes: int
) -> None:
    measured = Measured(step, validation, steps, accumulate)
    try:
        chosen, lines = measured.fill(f"{minutes}m", 40)
    except UserError:
        assert 10 * step + validation > 60 * minutes
        return
    most, interval = chosen["max_steps"], chosen["val_check_interval"]
    count = most * accumulate // interval
    assert count * interval == most * accumulate  # the last step is validated
    assert most * step + count * validation <= 60 * minutes
    capped = most + count > 40 * steps
    assert capped or (most + count) * step + count * validation > 60 * minutes
    assert count == 1 or count * validation <= 15 * minutes
    assert (len(lines) == 2) == (most < steps)


@pytest.mark.parametrize("text", ["", "soon", "-5m", "0m", "1.5h", "h"])
def test_a_duration_is_checked(text: str) -> None:
    with pytest.raises(UserError, match="give a duration such as 30m"):
        seconds_of(text)
