"""Chosen thresholds: against a slow search over all sorted pixels, and the scores with them."""

import math
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from scenewise.classes import Classes
from scenewise.models.thresholds import label_by_thresholds
from scenewise.training.metrics.confusion import confusion_matrix, dice
from scenewise.training.task import SegmentationTask
from scenewise.training.thresholds import ThresholdScores, ThresholdSearch

K = 4


def random_batch(seed: int = 0, step: float | None = None) -> tuple[Tensor, Tensor]:
    """Probabilities (B, K, H, W) that know something of the masks (B, H, W); class 3 is rare."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, 50, (2, 17, 23), generator=generator).clamp_max(3).sub(3).abs()
    masks[torch.rand(masks.shape, generator=generator) < 0.1] = 255
    noise = torch.randn(2, K, 17, 23, generator=generator)
    hot = torch.nn.functional.one_hot(masks.clamp_max(3), K).movedim(-1, 1)
    p = (1.5 * noise + 1.5 * hot).softmax(1)
    return (p if step is None else (p / step).floor() * step), masks


def exact(p: Tensor, masks: Tensor, k: int) -> tuple[float, float]:
    """The largest F1 of class k over every probability that occurs, and the lowest such value."""
    known = masks != 255
    scores, truth = p[:, k][known], (masks == k)[known]
    order = scores.argsort(descending=True)
    scores, truth = scores[order], truth[order]
    best = (-1.0, math.nan)
    hits = 0
    for count, (score, hit) in enumerate(zip(scores.tolist(), truth.tolist(), strict=True), 1):
        hits += hit
        if count < len(scores) and scores[count] == score:
            continue  # the threshold takes all equal ones
        best = max(best, (2 * hits / (count + int(truth.sum())), score))
    return best


@pytest.fixture(scope="module")
def search() -> ThresholdSearch:
    found = ThresholdSearch(Classes.numbered(K))
    for seed in range(2):
        found.add(*random_batch(seed))
    return found


def test_f1_at_the_threshold_is_that_of_all_pixels_and_nearly_the_exact_best(
    search: ThresholdSearch,
) -> None:
    p, masks = (torch.cat(parts) for parts in zip(random_batch(0), random_batch(1), strict=True))
    known = masks != 255
    thresholds, f1 = search.best()
    for k in range(K):
        truth = masks[known] == k
        values = torch.arange(1, 1000) / 1000
        every = torch.stack([f1_of(p[:, k][known] >= value, truth) for value in values])
        assert f1[k] == every.max()
        assert f1[k] == f1_of(p[:, k][known] >= float(thresholds[k]), truth)
        same = values[every == every.max()].sub(0.5).abs().min()
        assert abs(float(thresholds[k]) - 0.5) == pytest.approx(float(same), abs=1e-6)
        best, score = exact(p, masks, k)
        # the exact threshold is between two candidates; only pixels between them can differ
        low, high = math.floor(score * 1000) / 1000, math.ceil(score * 1000) / 1000
        between = ((p[:, k] >= low) & (p[:, k] < high) & known).sum()
        assert best - 2 * between / truth.sum() <= f1[k] <= best


def f1_of(predicted: Tensor, truth: Tensor) -> Tensor:
    return 2 * (predicted & truth).sum().double() / (predicted.sum() + truth.sum())


def test_with_probabilities_on_the_grid_it_is_the_exact_best() -> None:
    p, masks = random_batch(step=1 / 64)
    p = p.clamp(1 / 64, 63 / 64)
    search = ThresholdSearch(Classes.numbered(K))
    search.add(p, masks)
    for k in range(K):
        assert search.best()[1][k] == pytest.approx(exact(p, masks, k)[0], abs=1e-12)


def test_batches_devices_and_processes_add_up(search: ThresholdSearch) -> None:
    merged = ThresholdSearch(search.classes)
    for seed in range(2):
        part = ThresholdSearch(search.classes)
        for image, mask in zip(*random_batch(seed), strict=True):
            part.add(image[None], mask[None])
        merged.merge(part.matrix, part.counts)
    assert torch.equal(merged.counts, search.counts)
    assert torch.equal(merged.matrix, search.matrix)


def test_every_class_has_a_threshold_and_of_two_the_rarer_one(search: ThresholdSearch) -> None:
    assert list(search.thresholds()) == [f"class_{k}" for k in range(K)]
    absent = ThresholdSearch(Classes.numbered(K + 1))
    p, masks = random_batch()
    absent.add(torch.cat([p, torch.zeros_like(p[:, :1])], 1), masks)
    assert absent.thresholds()["class_4"] == 0.5
    assert absent.best()[1][4].isnan()
    two = ThresholdSearch(Classes.numbered(2))
    rare = (masks == 3).long().masked_fill(masks == 255, 255)
    two.add(torch.stack([1 - p[:, 3], p[:, 3]], 1), rare)
    assert list(two.thresholds()) == ["class_1"]
    scores = ThresholdScores(two)
    scores.add(torch.stack([1 - p[:, 3], p[:, 3]], 1), rare)
    best = scores.to_dict()["f1"]["class_1"]
    assert best["test_after"] == best["chosen_after"] > best["test_before"]  # the rule keeps it
    assert scores.to_dict()["f1"]["class_0"]["chosen_after"] is None


def test_scores_before_and_after_are_those_of_the_labels(search: ThresholdSearch) -> None:
    scores = ThresholdScores(search)
    p, masks = random_batch(5)
    scores.add(p, masks)
    values = torch.tensor(list(search.thresholds().values()))
    labels = label_by_thresholds(p.transpose(0, 1), values)[0]
    expected = {
        "test_before": dice(confusion_matrix(p.argmax(1), masks, K)),
        "test_after": dice(confusion_matrix(labels, masks, K)),
        "chosen_before": dice(search.matrix),
        "chosen_after": search.best()[1],
    }
    written = scores.to_dict()["f1"]
    for k in range(K):
        assert written[f"class_{k}"] == {name: float(f1[k]) for name, f1 in expected.items()}
    assert [column.header for column in scores.table().columns] == [
        "class",
        "threshold",
        "chosen, before",
        "chosen, after",
        "test, before",
        "test, after",
    ]


def test_a_training_forgets_thresholds_of_other_weights() -> None:
    task = SegmentationTask(Classes.numbered(2), network="fcn", backbone="tiny")
    for stage, kept in ((TrainerFn.TESTING, {"class_1": 0.25}), (TrainerFn.FITTING, {})):
        task.model.thresholds = {"class_1": 0.25}
        task._trainer = SimpleNamespace(state=SimpleNamespace(fn=stage))  # type: ignore[assignment]
        task.setup(stage)
        assert task.model.thresholds == kept
