"""Scores against plain NumPy counts and numbers worked out by hand."""

import csv
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from scenewise.classes import Classes
from scenewise.training.metrics.confusion import (
    ConfusionMatrix,
    confusion_matrix,
    dice,
    frequency_weighted_iou,
    iou,
    matrix_csv,
    mean_accuracy,
    mean_iou,
    pixel_accuracy,
    scores,
    table,
)

CLASSES = 5
pixels = st.lists(
    st.tuples(st.integers(0, CLASSES - 1), st.sampled_from([0, 1, 2, 3, 4, 255])),
    min_size=1,
    max_size=60,
)


@given(pixels)
def test_scores_equal_plain_counts(pairs: list[tuple[int, int]]) -> None:
    given_, truth = np.array(pairs).T
    matrix = confusion_matrix(torch.tensor(given_), torch.tensor(truth), CLASSES)
    counted = truth != 255
    given_, truth = given_[counted], truth[counted]
    scores, doubled, weighted = {}, {}, 0.0
    recalls = []
    for k in range(CLASSES):
        union = ((given_ == k) | (truth == k)).sum()
        if union:
            scores[k] = ((given_ == k) & (truth == k)).sum() / union
            both = (given_ == k).sum() + (truth == k).sum()
            doubled[k] = 2 * ((given_ == k) & (truth == k)).sum() / both
            weighted += scores[k] * (truth == k).mean()
        if (truth == k).any():
            recalls.append((given_[truth == k] == k).mean())
    assert matrix.sum().item() == len(truth)
    for k, value in enumerate(iou(matrix).tolist()):
        assert value == pytest.approx(scores.get(k, math.nan), nan_ok=True)
    for k, value in enumerate(dice(matrix).tolist()):
        assert value == pytest.approx(doubled.get(k, math.nan), nan_ok=True)
    if len(truth):
        assert mean_iou(matrix) == pytest.approx(np.mean(list(scores.values())))
        assert frequency_weighted_iou(matrix) == pytest.approx(weighted)
        assert pixel_accuracy(matrix) == pytest.approx((given_ == truth).mean())
        assert mean_accuracy(matrix) == pytest.approx(np.mean(recalls))


@given(pixels, st.integers(1, 7))
def test_streaming_does_not_change_the_counts(pairs: list[tuple[int, int]], size: int) -> None:
    labels, target = torch.tensor(pairs).T
    metric = ConfusionMatrix(CLASSES)
    for start in range(0, len(pairs), size):
        metric.update(labels[start : start + size], target[start : start + size])
    assert torch.equal(metric.compute(), confusion_matrix(labels, target, CLASSES))


def test_rows_are_the_truth() -> None:
    matrix = confusion_matrix(torch.tensor([[2, 2], [0, 1]]), torch.tensor([[1, 2], [0, 255]]), 3)
    assert matrix.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1]]
    assert matrix.dtype == torch.int64


def test_uint8_labels_do_not_overflow() -> None:
    labels = torch.full((3,), 200, dtype=torch.uint8)
    assert confusion_matrix(labels, labels, 201)[200, 200].item() == 3


def test_hand_computed_scores() -> None:
    matrix = torch.tensor([[6, 2, 0, 0], [1, 3, 0, 0], [0, 0, 0, 4], [0, 0, 0, 0]])
    expected = [6 / 9, 3 / 6, 0, 0]  # the last is only in the labels: it occurs, at 0
    assert iou(matrix).tolist() == pytest.approx(expected)
    assert mean_iou(matrix) == pytest.approx(7 / 24)
    assert mean_iou(matrix, classes=[0, 1]) == pytest.approx(7 / 12)
    assert pixel_accuracy(matrix) == pytest.approx(9 / 16)
    assert mean_accuracy(matrix) == pytest.approx((6 / 8 + 3 / 4 + 0) / 3)


def test_nothing_counted_is_nan() -> None:
    empty = torch.zeros(3, 3, dtype=torch.int64)
    assert all(math.isnan(score(empty)) for score in (mean_iou, pixel_accuracy, mean_accuracy))
    assert math.isnan(mean_iou(torch.tensor([[5, 0], [0, 0]]), classes=[1]))


def test_counts_beyond_float32_stay_exact() -> None:
    matrix = torch.tensor([[2**40 + 1, 0], [1, 2**40]])
    assert iou(matrix)[0].item() == (2**40 + 1) / (2**40 + 2)
    assert pixel_accuracy(matrix) < 1


def test_bad_ids_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        confusion_matrix(torch.zeros(2, 3), torch.zeros(3, 2), 2)
    with pytest.raises(ValueError, match=r"outside 0\.\.2"):
        confusion_matrix(torch.tensor([0, 1]), torch.tensor([0, 3]), 3)
    with pytest.raises(ValueError, match=r"outside 0\.\.2"):
        confusion_matrix(torch.tensor([3]), torch.tensor([0]), 3)
    with pytest.raises(ValueError, match=r"outside 0\.\.2"):
        confusion_matrix(torch.tensor([0]), torch.tensor([3]), 3)


def test_reset_forgets() -> None:
    metric = ConfusionMatrix(2)
    metric.update(torch.tensor([0]), torch.tensor([0]))
    metric.reset()
    metric.update(torch.tensor([1]), torch.tensor([0]))
    assert metric.compute().tolist() == [[0, 1], [0, 0]]


def test_the_ignored_id_may_be_another() -> None:
    labels, target = torch.tensor([0, 1, 1]), torch.tensor([0, 7, 255])
    metric = ConfusionMatrix(2, ignore_index=7)
    metric.update(labels[:2], target[:2])
    assert metric.compute().tolist() == [[1, 0], [0, 0]]
    with pytest.raises(ValueError, match="outside"):
        metric.update(labels, target)


def test_processes_add_their_counts() -> None:
    one, other = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[5, 6], [7, 8]])
    add = ConfusionMatrix(2)._reductions["counts"]
    assert callable(add)
    assert torch.equal(add(torch.stack([one, other])), one + other)


def test_table_shows_each_class_and_the_mean() -> None:
    console = Console(width=80, file=io.StringIO())
    with console.capture() as capture:
        console.print(table(torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]]), Classes.numbered(3)))
    rows = [line.split() for line in capture.get().splitlines() if "class_" in line]
    cells = [[cell for cell in row if cell not in "│┃|"] for row in rows]
    assert cells == [
        ["class_0", "75.0", "50.0"],
        ["class_1", "80.0", "50.0"],
        ["class_2", "-", "0.0"],
    ]
    assert "77.5" in capture.get()
    assert [c.justify for c in table(torch.eye(2), Classes.numbered(2)).columns[1:]] == [
        "right"
    ] * 2
    assert table(torch.eye(2), Classes.numbered(2)).title_justify == "left"
    heads = ["class", "IoU", "%", "pixels", "%"]
    assert any([c for c in line.split() if c not in "│┃|"] == heads for line in
               capture.get().splitlines())  # fmt: skip


def test_the_matrix_as_comma_separated_values() -> None:
    classes = Classes(("road, wet", 'the "sky"'), ((0, 0, 0), (1, 1, 1)))
    assert "\r" not in matrix_csv(torch.eye(2, dtype=torch.int64), classes)
    rows = list(csv.reader(io.StringIO(matrix_csv(torch.tensor([[3, 1], [0, 4]]), classes))))
    assert rows[0][1:] == list(classes.names)
    assert rows[1:] == [["road, wet", "3", "1"], ['the "sky"', "0", "4"]]


def test_categories_are_scored_as_if_each_were_one_class() -> None:
    matrix = torch.tensor([[9, 1, 0, 7], [0, 5, 3, 7], [0, 2, 4, 7], [7, 7, 7, 7]])
    actual = scores(matrix, Classes.numbered(4), categories={"road": [0], "vehicle": [1, 2]})
    assert actual["category_iou/road"] == pytest.approx(9 / 10)
    assert actual["category_iou/vehicle"] == pytest.approx(14 / 15)
    assert actual["category_miou"] == pytest.approx((9 / 10 + 14 / 15) / 2)
    assert not any(name.startswith("category") for name in scores(matrix, Classes.numbered(4)))
