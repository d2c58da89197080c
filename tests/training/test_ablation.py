"""A split with and without attention blocks: the counts, where attention goes, what is refused."""

import pytest
import torch
from torch import Tensor

from scenewise import Predictor, create_model
from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.training.ablation import BlockComparison, compare_blocks
from scenewise.training.metrics.confusion import confusion_matrix, iou
from scenewise.visualize import attention_maps, attention_sums, switched_off
from tests.attention.contract import randomise
from tests.toy_model import random_danet

CLASSES = Classes(("road", "sky", "car"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)))
POSITION, CHANNEL = "head.position.1", "head.channel.1"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(random_danet(CLASSES), fast=False)


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    sizes = [(41, 59), (40, 56)]
    masks = [torch.randint(3, size, generator=generator) for size in sizes]
    masks[0][:9] = 255
    return [(torch.rand(3, *mask.shape, generator=generator), mask) for mask in masks]


@pytest.fixture(scope="module")
def compared(predictor: Predictor, pairs: list[tuple[Tensor, Tensor]]) -> BlockComparison:
    return compare_blocks(predictor, pairs)


def test_the_counts_are_those_of_the_predictions(
    predictor: Predictor, pairs: list[tuple[Tensor, Tensor]], compared: BlockComparison
) -> None:
    def counted() -> Tensor:
        labels = [predictor(image).labels for image, _ in pairs]
        return sum(
            (confusion_matrix(x, y, 3) for x, (_, y) in zip(labels, pairs, strict=True)),
            torch.zeros(3, 3, dtype=torch.int64),
        )

    assert torch.equal(compared.matrix, counted())
    with switched_off(predictor.model, POSITION):
        without = counted()
        assert torch.equal(compared.without[POSITION], without)
        with switched_off(predictor.model, CHANNEL):
            assert torch.equal(compared.without["all together"], counted())
    assert not torch.equal(compared.matrix, without)
    expected = 100 * (iou(without) - iou(compared.matrix))
    assert compared.change(POSITION) == pytest.approx(expected.tolist())
    assert predictor(pairs[0][0]).labels.shape == (41, 59)  # every hook is gone
    assert not predictor.model.head.position[1]._forward_hooks


def test_attention_is_summed_over_the_images(
    predictor: Predictor, pairs: list[tuple[Tensor, Tensor]], compared: BlockComparison
) -> None:
    sums = []
    for image, mask in pairs:
        with attention_maps(predictor.model) as maps:
            predictor(image)
        sums.append(attention_sums(maps.positions[POSITION], mask, 3))
    for found, *parts in zip(compared.attention[POSITION], *sums, strict=True):
        torch.testing.assert_close(found, sum(parts))
    numbers = compared.to_dict()["attention"][POSITION]
    expected = float(sum(s.own.sum() for s in sums) / sum(s.pixels.sum() for s in sums))
    assert numbers["own_class"] == pytest.approx(expected)
    [line] = compared.sentences()
    assert f"{POSITION}: {100 * expected:.1f} % of a pixel's attention" in line


def test_two_processes_count_as_one(
    predictor: Predictor, pairs: list[tuple[Tensor, Tensor]], compared: BlockComparison
) -> None:
    first, second = (compare_blocks(predictor, [pair]) for pair in pairs)
    first.merge(second.matrix, second.without, second.attention)
    assert torch.equal(first.matrix, compared.matrix)
    assert all(torch.equal(first.without[name], compared.without[name]) for name in first.without)
    found, expected = (c.to_dict()["attention"][POSITION] for c in (first, compared))
    assert found == pytest.approx(expected)


def test_chosen_blocks_in_windows(predictor: Predictor, pairs: list[tuple[Tensor, Tensor]]) -> None:
    windows = Predictor(predictor.model, window=32)
    compared = compare_blocks(windows, pairs[:1], [CHANNEL, CHANNEL])
    assert list(compared.without) == [CHANNEL]
    assert compared.attention == {}  # a window's attention is not that of the image
    assert "whole images" in compared.sentences()[0]


def test_a_block_that_changes_the_size_stays(pairs: list[tuple[Tensor, Tensor]]) -> None:
    torch.manual_seed(0)
    dranet = randomise(create_model("dranet", classes=CLASSES, backbone="tiny")).eval()
    compared = compare_blocks(Predictor(dranet), pairs[:1])
    [fixed] = compared.fixed
    assert fixed not in compared.without
    assert compared.sentences()[-1].startswith(f"{fixed} changes the size of its input")


@pytest.mark.parametrize(
    ("network", "block", "sentence"),
    [
        ("danet", "head.positon.1", "unknown block 'head.positon.1'; did you mean 'head.position"),
        ("danet", "xyz", "choose one of head.position.1, head.channel.1, all"),
        ("fcn", "all", "fcn has no attention block that could be left out"),
    ],
)
def test_refused(network: str, block: str, sentence: str) -> None:
    model = create_model(network, num_classes=2, backbone="tiny", pretrained=False)
    with pytest.raises(UserError, match=sentence):
        BlockComparison(model, [block])
