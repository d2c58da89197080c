"""Samplers: each index exactly once, whatever the number of processes."""

import pytest

from scenewise.data.sampler import EvalSampler


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 3, 7, 12])
def test_each_index_goes_to_exactly_one_process(world: int, length: int) -> None:
    shares = [EvalSampler(range(length), world, rank) for rank in range(world)]
    indices = [list(share) for share in shares]
    assert sorted(i for share in indices for i in share) == list(range(length))
    assert [len(share) for share in shares] == [len(share) for share in indices]
