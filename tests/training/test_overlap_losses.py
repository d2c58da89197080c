"""Dice and Lovász losses against loops over classes and subsets of pixels, in float64."""

from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.training.overlap_losses import dice_loss, lovasz_softmax
from scenewise.training.task import SegmentationTask

LOSSES = [dice_loss, lovasz_softmax]


def example(
    classes: int = 3, size: tuple[int, int, int] = (2, 3, 5), ignored: float = 0.3
) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    batch, height, width = size
    logits = torch.randn(batch, classes, height, width, dtype=torch.float64, requires_grad=True)
    target = torch.randint(classes - 1, (batch, height, width))  # the last class is absent
    return logits, target.where(torch.rand(target.shape) > ignored, 255)


def pixels(logits: Tensor, target: Tensor) -> list[tuple[Tensor, int]]:
    probabilities = logits.softmax(1)
    where = (target != 255).nonzero().tolist()
    return [(probabilities[b, :, i, j], int(target[b, i, j])) for b, i, j in where]


def test_dice_equals_a_loop() -> None:
    logits, target = example()
    losses = []
    for k in range(2):
        values = [(p[k], t == k) for p, t in pixels(logits, target)]
        both = sum(p for p, t in values if t)
        losses.append(1 - 2 * both / (sum(p**2 for p, _ in values) + sum(t for _, t in values)))
    expected = sum(losses) / 2
    assert_close(dice_loss(logits, target), expected)
    gradients = [torch.autograd.grad(x, logits)[0] for x in (dice_loss(logits, target), expected)]
    assert_close(*gradients)


def jaccard_loss(wrong: tuple[int, ...], truth: list[bool]) -> float:
    """1 - IoU of the object if the pixels in ``wrong`` are given the other label."""
    given = [t != (i in wrong) for i, t in enumerate(truth)]
    union = sum(g or t for g, t in zip(given, truth, strict=True))
    return 1 - sum(g and t for g, t in zip(given, truth, strict=True)) / union


def test_lovasz_equals_the_loop_over_the_sorted_errors() -> None:
    logits, target = example()
    losses = []
    for k in range(2):
        values = [(p[k], t == k) for p, t in pixels(logits, target)]
        truth = [t for _, t in values]
        errors = [1 - p if t else p for p, t in values]
        order = sorted(range(len(errors)), key=lambda i: -errors[i].item())
        loss = torch.zeros((), dtype=torch.float64)
        for i in range(len(order)):
            step = jaccard_loss(tuple(order[: i + 1]), truth)
            loss = loss + errors[order[i]] * (step - (jaccard_loss(tuple(order[:i]), truth)))
        losses.append(loss)
    expected = sum(losses) / 2
    assert_close(lovasz_softmax(logits, target), expected)
    gradients = [
        torch.autograd.grad(x, logits)[0] for x in (lovasz_softmax(logits, target), expected)
    ]
    assert_close(*gradients)


def test_lovasz_is_the_jaccard_loss_at_certain_predictions() -> None:
    """At the corners of the cube an extension equals the function that it extends."""
    truth = [True, False, True, True]
    for count in range(5):
        for wrong in combinations(range(4), count):
            given = [t != (i in wrong) for i, t in enumerate(truth)]
            scores = torch.tensor([[-60.0 if g else 60.0 for g in given]], dtype=torch.float64)
            logits = torch.stack([scores, -scores], 1)[:, :, None]  # (1, 2, 1, 4)
            target = torch.tensor([[[int(t) for t in truth]]])
            background = [not t for t in truth]
            expected = (jaccard_loss(wrong, truth) + jaccard_loss(wrong, background)) / 2
            assert lovasz_softmax(logits, target).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_laws(loss: object) -> None:
    assert callable(loss)
    logits, target = example()
    value = loss(logits, target)
    assert 0 < value < 1
    assert_close(loss(logits, target.where(target != 255, 7), ignore_index=7), value)
    assert_close(loss(logits.flip(0, 2), target.flip(0, 1)), value)  # order of pixels
    sure = 60 * torch.nn.functional.one_hot(target.where(target != 255, 0), 3).movedim(3, 1)
    assert loss(sure.double(), target) < 1e-12
    half = loss(logits.bfloat16(), target)
    assert half.dtype == torch.float32
    assert_close(half.double(), value, rtol=0.02, atol=0.0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("batch", [0, 2])
def test_without_labelled_pixels_it_is_zero(loss: object, batch: int) -> None:
    assert callable(loss)
    logits = torch.randn(batch, 3, 4, 5, requires_grad=True)
    value = loss(logits, torch.full((batch, 4, 5), 255))
    value.backward()
    assert value == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("name", ["dice", "lovasz"])
def test_the_option_adds_it_to_the_main_loss_only(name: str) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"network": "danet", "backbone": "tiny", "pretrained": False}
    loss: Any = f"cross_entropy+{name}"
    plain = SegmentationTask(Classes.numbered(3), **options)
    both = SegmentationTask(Classes.numbered(3), loss=loss, **options)
    both.model.load_state_dict(plain.model.state_dict())
    images = torch.randint(256, (2, 3, 32, 40), dtype=torch.uint8)
    masks = torch.randint(3, (2, 32, 40))
    for task in (plain, both):
        task.model.train().apply(_still)
    expected, actual = plain.losses(images, masks), both.losses(images, masks)
    logits = plain.model(plain.model.normalize(images)).logits
    added = {"dice": dice_loss, "lovasz": lovasz_softmax}[name](logits, masks)
    assert_close(actual.total, expected.total + added, rtol=1e-4, atol=1e-5)
    assert_close(actual.parts["position"], expected.parts["position"])


def test_an_unknown_loss_is_refused() -> None:
    loss: Any = "cross_entropy+dise"
    with pytest.raises(UserError, match=r"did you mean 'cross_entropy\+dice'"):
        SegmentationTask(Classes.numbered(2), network="fcn", backbone="tiny", loss=loss)


def _still(module: torch.nn.Module) -> None:
    """No dropout, and the running statistics in batch norms."""
    if isinstance(module, (torch.nn.Dropout2d, torch.nn.BatchNorm2d)):
        module.eval()


def test_dice_counts_many_pixels_exactly() -> None:
    """A sum of ones, one after another in float32, is 2**24 for any number of pixels above it."""
    target = torch.zeros(1, 4100, 4100, dtype=torch.int64)  # 16.81 million; 2**24 is 16.78 million
    logits = torch.zeros(1, 1, 4100, 4100)  # one class, so its probability is 1
    assert_close(dice_loss(logits, target).item(), 0.0, rtol=0, atol=1e-6)
