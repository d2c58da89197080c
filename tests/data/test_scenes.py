"""Scenes are a function of their seed; only distant context decides their context classes."""

import itertools

import numpy as np
import pytest
import torch

from scenewise.data.scenes import CLASSES, Scenes, _draw_scene
from scenewise.errors import UserError

SIZES = [(64, 192), (47, 131), (96, 96), (160, 61)]


def frequencies(count: int) -> np.ndarray:
    scenes = Scenes(count, seed=5)
    masks = torch.stack([scenes.read(i)[1] for i in range(count)])
    return torch.bincount(masks.flatten(), minlength=len(CLASSES)).numpy()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("which", [0, 1])
def test_a_signal_decides_from_a_third_of_the_width_and_shows_nowhere_else(
    size: tuple[int, int], which: int
) -> None:
    pair = Scenes.context_pairs[which]
    for index in range(40):
        cues = [index % 2, index // 2 % 2]
        image, mask = _draw_scene(3, index, size, (cues[0], cues[1]))
        cues[which] = 1 - cues[which]
        other_image, other_mask = _draw_scene(3, index, size, (cues[0], cues[1]))

        decided = np.isin(mask, pair)
        swapped = np.where(mask == pair[0], pair[1], pair[0])
        assert decided.any()
        np.testing.assert_array_equal(other_mask[decided], swapped[decided])

        changed = (image != other_image).any(axis=2)
        assert changed.sum() > 200 * min(size[0] / 64, size[1] / 192) ** 2
        signal_columns, decided_columns = changed.nonzero()[1], decided.nonzero()[1]
        distance = np.abs(np.unique(signal_columns)[:, None] - np.unique(decided_columns))
        assert distance.min() >= size[1] / 3

        # All other labels are equal, except those of the signal itself.
        np.testing.assert_array_equal(mask[~decided & ~changed], other_mask[~decided & ~changed])


def test_both_colours_of_both_signals_are_equally_frequent_and_independent() -> None:
    scenes = Scenes(64, size=(32, 96), seed=7)
    combinations = []
    for i in range(64):
        present = set(scenes.read(i)[1].unique().tolist())
        combinations.append(tuple(sorted(present & set(Scenes.context_classes))))
    pairs = [tuple(sorted(pair)) for pair in itertools.product(*Scenes.context_pairs)]
    assert {pair: combinations.count(pair) for pair in pairs} == dict.fromkeys(pairs, 16)


def test_a_scene_is_a_function_of_seed_index_and_size() -> None:
    first, again = Scenes(9, seed=1), Scenes(3, seed=1)
    for i in (2, 0):
        for a, b in zip(first.read(i), again.read(i), strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(first.read(0)[0], first.read(1)[0])
    assert not torch.equal(first.read(0)[0], Scenes(9, seed=2).read(0)[0])


def test_another_seed_does_not_give_the_same_scenes_shifted() -> None:
    first = {Scenes(20, seed=0).read(i)[0].numpy().tobytes() for i in range(20)}
    second = {Scenes(20, seed=1).read(i)[0].numpy().tobytes() for i in range(20)}
    assert len(first) == len(second) == 20
    assert not first & second


def test_all_classes_appear_and_differ_tenfold_in_size() -> None:
    counts = frequencies(64)
    assert len(counts) == len(CLASSES) >= 8
    assert counts.min() > 0
    assert counts.max() > 10 * counts.min()


def test_light_and_noise_vary() -> None:
    images = [Scenes(32).read(i)[0].double() for i in range(32)]
    brightness = torch.stack([image.mean() for image in images])
    assert brightness.max() > 1.3 * brightness.min()
    flat = [(p[:, :, 1:] - p[:, :, :-1]).abs().median() for p in images]
    assert min(flat) > 0


@pytest.mark.parametrize("size", SIZES)
def test_any_size(size: tuple[int, int]) -> None:
    image, mask = Scenes(1, size).read(0)
    assert image.shape == (3, *size)
    assert mask.shape == size
    assert image.dtype == mask.dtype == torch.uint8


@pytest.mark.parametrize(
    "arguments", [{"length": 0}, {"length": 2, "size": (8, 192)}, {"length": 2, "seed": -1}]
)
def test_impossible_scenes(arguments: dict) -> None:
    with pytest.raises(UserError, match="cannot draw"):
        Scenes(**arguments)
