"""The seeded division: whole groups, every class on both sides, the asked share."""

import numpy as np
import pytest

from scenewise.data.division import divide, groups_of


def test_a_division_is_seeded_disjoint_and_of_the_asked_share() -> None:
    names = [f"x{k}y" for k in range(100)]
    train, val = divide(names, None, 0.2, seed=0)
    assert len(val) == 20
    assert sorted(train + val) == list(range(100))
    assert (train, val) == divide(names, None, 0.2, seed=0)
    assert val != divide(names, None, 0.2, seed=1)[1]


def test_frames_of_a_clip_stay_together() -> None:
    names = [f"{clip}_{k:04d}" for clip in ("a", "b", "c", "d", "e") for k in range(10, 18)]
    train, val = divide(names, None, 0.2, seed=0)
    assert {names[k][0] for k in train} & {names[k][0] for k in val} == set()
    assert len(val) == 8


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["u/1", "u/2", "v/1"], [[0, 1], [2]]),
        (["a.rf.0f", "a.rf.1e", "b.rf.2d"], [[0, 1], [2]]),
        (["p1", "p2", "p3"], [[0], [1], [2]]),
        (["cat1", "dog1", "cow9"], [[0], [1], [2]]),  # of one number each: no clips
    ],
)
def test_groups(names: list[str], groups: list[list[int]]) -> None:
    assert groups_of(names) == groups


def test_every_class_is_in_training_and_rare_ones_in_validation_too() -> None:
    present = np.zeros((50, 3), bool)
    present[:, 0] = True
    present[::7, 1] = True  # 8 images
    present[3:8, 2] = True  # 5 images
    train, val = divide([f"x{k}y" for k in range(50)], present, 0.2, seed=0)
    assert len(val) == 10
    assert present[val].sum(0)[1:].tolist() in ([2, 1], [1, 1], [2, 2])
    assert present[train].any(0).all()


def test_a_class_that_one_clip_alone_has_stays_in_training() -> None:
    names = [f"{clip}_{k}" for clip in "abc" for k in range(4)]
    present = np.ones((12, 2), bool)
    present[4:, 1] = False  # only in clip a
    train, val = divide(names, present, 0.3, seed=0)
    assert {names[k][0] for k in val} <= {"b", "c"}
    assert present[train].any(0).all()


def test_names_that_give_the_class_are_no_clips() -> None:
    names = [f"{kind}_{k}" for kind in ("cat", "dog") for k in range(5)]
    present = np.repeat(np.eye(2, dtype=bool), 5, axis=0)
    train, val = divide(names, present, 0.2, seed=0)
    assert len(val) == 2
    assert present[train].any(0).all()
    assert present[val].any(0).all()
