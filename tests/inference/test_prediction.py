"""What a Prediction holds is what an independent softmax of the network's logits gives."""

import math
import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from scenewise import Predictor
from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.inference.prediction import Prediction
from tests.toy_model import random_danet, toy_model

SIZE = (23, 41)
WAYS = [{}, {"scales": (0.5, 1.5), "flip": True}, {"window": 11}, {"merge": "danet"}]
close = partial(assert_close, rtol=0, atol=1e-6)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(3, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("stride", [1, 4], ids=["predicted again", "kept logits"])
@pytest.mark.parametrize("align_corners", [True, False])
def test_one_pass_is_an_independent_softmax(image, stride, align_corners):
    model = toy_model(stride=stride, align_corners=align_corners)
    with torch.no_grad():
        low = model.low_res(model.normalize(image[None]))[0].logits
    logits = F.interpolate(low, SIZE, mode="bilinear", align_corners=align_corners)[0]
    exponentials = (logits - logits.logsumexp(0)).exp()  # (K, H, W)
    prediction = Predictor(model)(image)
    probabilities = prediction.probabilities()
    assert probabilities.dtype == torch.float32
    close(probabilities, exponentials.float())
    expected = -(exponentials * exponentials.log()).sum(0) / math.log(4)
    assert 0.1 < float(expected.mean()) < 0.95  # else the comparison would mean little
    close(prediction.entropy, expected.float())
    assert torch.equal(prediction.probabilities([3, 0]), probabilities[[3, 0]])
    labels, confidence = prediction
    close(confidence.float(), probabilities.gather(0, labels[None])[0])


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_probabilities_are_the_scores(image, way, keep):
    predictor = Predictor(toy_model(), **way)
    prediction = predictor(image, keep=keep)
    scores = predictor.scores(image)
    close(prediction.probabilities(), scores.float())
    close(prediction.entropy, (torch.special.entr(scores).sum(0) / math.log(4)).float())
    assert torch.equal(prediction.labels, scores.argmax(0))
    again = pickle.loads(pickle.dumps(prediction))
    assert torch.equal(again.probabilities(), prediction.probabilities())


@pytest.mark.parametrize(("way", "passes"), [({}, 1), ({"flip": True}, 2)])
def test_what_is_kept_needs_no_other_pass(image, way, passes):
    model, calls = toy_model(), []
    model.head.register_forward_hook(lambda *arguments: calls.append(1))
    prediction = Predictor(model, **way)(image, keep=True)
    prediction.probabilities()
    assert prediction.entropy is prediction.entropy
    assert len(calls) == passes
    Predictor(model, **way)(image).probabilities()
    assert len(calls) == 3 * passes  # neither large logits nor merged scores are kept


def test_entropy_is_0_where_sure_and_1_where_not(image):
    model = toy_model(pointwise=True)
    with torch.no_grad():
        model.head.conv.weight.zero_()
        model.head.conv.bias.zero_()
    assert torch.equal(Predictor(model)(image).entropy, torch.ones(SIZE))
    model.head.conv.bias.data[2] = 2000.0
    assert torch.equal(Predictor(model)(image).entropy, torch.zeros(SIZE))
    assert torch.equal(Predictor(toy_model(classes=1))(image).entropy, torch.zeros(SIZE))


def test_what_there_is_not_is_said(image):
    with pytest.raises(UserError, match="no class id 4; give ids from 0 to 3"):
        Predictor(toy_model())(image).probabilities([0, 4])
    labels = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(UserError, match="has no probabilities"):
        Prediction(labels, labels.float()).probabilities()


@pytest.mark.parametrize("way", [{}, {"flip": True}], ids=str)
def test_batches_are_the_predictions_one_by_one(way):
    sizes = [(23, 41), (16, 24), (23, 41), (23, 41), (16, 24), (23, 41), (9, 9)]
    generator = torch.Generator().manual_seed(6)
    images = [torch.rand(3, *size, generator=generator) for size in sizes]
    model = random_danet(Classes.numbered(3))
    seen: list[int] = []
    predictor = Predictor(model, fast=False, **way)
    singly = predictor(images)
    model.head.register_forward_hook(lambda _, inputs, output: seen.append(len(output.logits)))
    together = predictor.batch(iter(images), size=3)
    assert seen == ([3, 2, 1, 1] if not way else [1] * 14)  # a batch runs when it is full
    assert len(together) == len(images)
    for one, other in zip(singly, together, strict=True):
        close(other.confidence, one.confidence)
        close(other.probabilities(), one.probabilities())
        unsure = one.probabilities().topk(2, 0).values.diff(dim=0).abs()[0] < 1e-6
        assert torch.equal(one.labels[~unsure], other.labels[~unsure])
        assert unsure.float().mean() < 0.01


def test_a_bad_image_of_a_batch_is_named(image):
    predictor = Predictor(toy_model())
    with pytest.raises(UserError, match=r"image 1 of 2, from 0: .*nowhere\.png"):
        predictor.batch([image, "nowhere.png"])
    with pytest.raises(UserError, match="a batch needs a size of at least 1, not 0"):
        predictor.batch([image], size=0)
