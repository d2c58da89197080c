"""What a block does at a pixel: the prediction with it and without it."""

import pytest
import torch

from scenewise import Predictor, create_model
from scenewise.classes import Classes
from scenewise.models.segmenter import Segmenter
from scenewise.visualize import Effect, attention_maps, effect, explained, switched_off
from tests.attention.contract import randomise
from tests.toy_model import random_danet

CLASSES = Classes(("road", "sky", "car"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)))
AT = [(0, 0), (40, 58), (7, 30)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(4)


def model(network: str) -> Segmenter:
    return randomise(create_model(network, classes=CLASSES, backbone="tiny")).eval()


@pytest.mark.parametrize("options", [{}, {"flip": True}], ids=["at once", "all scores"])
def test_scores_of_pixels_are_those_of_the_image(options: dict[str, bool]) -> None:
    predictor, image = Predictor(random_danet(CLASSES), **options), torch.rand(3, 41, 59)
    prediction, scores = predictor.with_scores(image, AT)
    everywhere, plain = predictor.scores(image), predictor(image)
    expected = torch.stack([everywhere[:, row, column] for row, column in AT])
    torch.testing.assert_close(scores, expected)
    assert torch.equal(prediction.labels, plain.labels)
    assert torch.equal(prediction.confidence, plain.confidence)
    assert predictor.with_scores(image, [])[1].shape == (0, 3)


def test_effects_are_those_of_the_block_switched_off() -> None:
    predictor, image = Predictor(random_danet(CLASSES)), torch.rand(3, 41, 59)
    shown = explained(predictor, image, AT)
    assert list(shown.effects) == ["head.position.1", "head.channel.1"]
    scores = predictor.scores(image)
    with switched_off(predictor.model, "head.position.1"):
        without = predictor.scores(image)
    found = shown.effects["head.position.1"]
    assert torch.equal(found.without, without.argmax(0))
    assert shown.changed("head.position.1") == float(
        (scores.argmax(0) != without.argmax(0)).double().mean()
    )
    assert shown.changed("head.position.1") > 0
    for (row, column), one in zip(AT, found.pixels, strict=True):
        expected = effect(scores[:, row, column], without[:, row, column])
        assert one.label == expected.label
        assert one[2:] == pytest.approx(expected[2:], abs=1e-5)


def test_a_block_with_gamma_0_hardly_matters() -> None:
    danet = random_danet(CLASSES)
    with torch.no_grad():
        danet.head.position[1].gamma.zero_()
    shown = explained(Predictor(danet), torch.rand(3, 41, 59), AT)
    one = shown.effects["head.position.1"].pixels[0]
    assert (one.moved, one.matters) == (0, False)
    assert "hardly matters" in shown.sentence("head.position.1", 0, CLASSES)
    assert shown.changed("head.position.1") == 0


def test_a_block_that_changes_the_size_is_not_switched_off() -> None:
    dranet = model("dranet")
    shown = explained(Predictor(dranet), torch.rand(3, 41, 59), AT)
    with attention_maps(dranet) as maps:
        pass
    (other,) = maps.blocks().keys() - shown.effects.keys()
    assert "cannot be switched off" in shown.sentence(other, 0, CLASSES)
    assert explained(Predictor(model("fcn")), torch.rand(3, 41, 59), AT).effects == {}


def test_words_follow_what_moved() -> None:
    moves = Effect(0, 0, 0.9, 0.8, 0.1).sentence("block", CLASSES)
    assert moves.endswith(
        '"road" (80.0 % instead of 90.0 %). Scores move by up to 10.0 ' + ("percentage points.")
    )
    flips = Effect(0, 2, 0.501, 0.5005, 0.002)  # a small change can decide
    assert flips.matters
    assert '"car"' in flips.sentence("block", CLASSES)
