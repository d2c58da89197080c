"""Windows cover an image, and their mean is what a plain count gives."""

import numpy as np
import pytest
import torch

from scenewise.inference.sliding_window import (
    hann,
    intervals,
    long_side,
    pad_with,
    resize,
    slide,
    softmax_,
)


@pytest.mark.parametrize("shift_back", [True, False])
@pytest.mark.parametrize(("length", "window", "stride"), [(23, 7, 5), (13, 13, 3), (29, 11, 11)])
def test_windows_cover_a_side_and_stay_inside(length, window, stride, shift_back):
    windows = intervals(length, window, stride, shift_back=shift_back)
    covered = set().union(*(range(first, last) for first, last in windows))
    assert covered == set(range(length))
    assert len(windows) == -(-(length - window) // stride) + 1
    lengths = {last - first for first, last in windows[: len(windows) if shift_back else -1]}
    assert lengths <= {window}


def test_intervals_counted_by_hand():
    assert intervals(11, 5, 3) == [(0, 5), (3, 8), (6, 11)]
    assert intervals(12, 5, 3) == [(0, 5), (3, 8), (6, 11), (7, 12)]
    assert intervals(12, 5, 3, shift_back=False) == [(0, 5), (3, 8), (6, 11), (9, 12)]
    assert intervals(3, 5, 3) == intervals(3, 5, 3, shift_back=False) == [(0, 3)]


def test_slide_is_the_mean_over_the_windows_that_cover_a_pixel():
    windows = []

    def score(window):
        windows.append(tuple(window.shape[2:]))
        return torch.full((1, *window.shape[2:]), float(len(windows)))

    scores = slide(score, torch.zeros(1, 3, 3, 5), (3, 3), (2, 2))
    assert windows == [(3, 3), (3, 3)]
    assert torch.equal(scores[0, 0], torch.tensor([1, 1, 1.5, 2, 2]))


def test_the_last_window_is_shifted_back_by_default():
    assert intervals(6, 4, 3) == [(0, 4), (2, 6)]
    windows = []

    def score(window):
        windows.append(window[0, 0, 0].tolist())
        return window[0]

    slide(score, torch.arange(6.0).view(1, 1, 1, 6), (1, 4), (1, 3))
    assert windows == [[0, 1, 2, 3], [2, 3, 4, 5]]


def test_slide_fills_short_windows_at_right_and_bottom():
    images = torch.arange(6.0).reshape(1, 1, 2, 3)
    windows = []

    def score(window):
        windows.append(window[0, 0].tolist())
        return window[0]

    pad = torch.full((1, 1, 1), 9.0)
    scores = slide(score, images, (3, 2), (3, 2), shift_back=False, pad=pad)
    assert windows == [[[0, 1], [3, 4], [9, 9]], [[2, 9], [5, 9], [9, 9]]]
    assert torch.equal(scores, images[0])


def _blended(parts, size, window):
    """The weighted mean of [(top, left, scores (h, w))], pixel by pixel, in plain Python."""
    total, weight = np.zeros(size), np.zeros(size)
    for top, left, scores in parts:
        for row, column in np.ndindex(*scores.shape):
            down = np.sin(np.pi * (row + 0.5) / window[0]) ** 2
            across = np.sin(np.pi * (column + 0.5) / window[1]) ** 2
            total[top + row, left + column] += down * across * scores[row, column]
            weight[top + row, left + column] += down * across
    return total / weight


@pytest.mark.parametrize("shift_back", [True, False])
def test_hann_blending_is_the_weighted_mean_over_the_windows(shift_back):
    size, window, stride = (13, 23), (7, 11), (5, 7)
    images, parts = torch.rand(1, 1, *size, dtype=torch.float64), []
    starts = [
        (rows[0], columns[0])
        for rows in intervals(size[0], window[0], stride[0], shift_back=shift_back)
        for columns in intervals(size[1], window[1], stride[1], shift_back=shift_back)
    ]
    rest = iter(starts)

    def score(part):
        result = part[0] * (len(parts) + 1) + part.mean()  # differs from window to window
        parts.append((*next(rest), result[0].numpy()))
        return result

    kept = images.clone()
    scores = slide(score, images, window, stride, shift_back=shift_back, blend="hann")
    np.testing.assert_allclose(scores[0], _blended(parts, size, window), rtol=1e-12)
    assert len(parts) == len(starts) > 4
    assert torch.equal(images, kept)  # the windows are views of it


def test_hann_windows_sum_to_a_constant():
    window, stride = 21, 7
    total = torch.zeros(56, dtype=torch.float64)
    for first in range(0, 36, stride):
        total[first : first + window] += hann(window)
    inside = total[window - stride : -(window - stride)]  # covered three times
    torch.testing.assert_close(inside, torch.full_like(inside, 1.5))
    assert hann(5).min() > 0


def test_padding_keeps_the_image_bit_for_bit():
    images = torch.rand(1, 3, 5, 7)
    padded = pad_with(images, (1, 2, 3, 4), torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1))
    assert padded.shape == (1, 3, 12, 10)
    assert torch.equal(padded[..., 3:8, 1:8], images)
    assert torch.equal(padded[0, :, 2, 0], torch.tensor([0.1, 0.2, 0.3]))


@pytest.mark.parametrize("align_corners", [True, False])
def test_resize_is_bilinear(align_corners):
    x = torch.randn(2, 5, 7, dtype=torch.float64)
    expected = slow_resize(x.numpy(), (11, 3), align_corners=align_corners)
    np.testing.assert_allclose(resize(x, (11, 3), align_corners=align_corners), expected)
    assert resize(x, (5, 7), align_corners=align_corners) is x


def test_softmax_in_place_is_softmax():
    x = torch.randn(4, 3, 5, dtype=torch.float64) * 300
    expected = torch.softmax(x, 0)
    assert torch.allclose(softmax_(x), expected)


def test_long_side_keeps_the_proportion():
    assert long_side((5, 7), 21) == (15, 21)
    assert long_side((7, 5), 21) == (21, 15)
    assert long_side((1, 1000), 10) == (1, 10)


def slow_resize(x, size, *, align_corners):
    """Bilinear resize of (K, h, w) as products with two matrices built from the definition."""
    down = _weights(size[0], x.shape[1], align_corners)
    along = _weights(size[1], x.shape[2], align_corners)
    return np.einsum("oh,khw,pw->kop", down, x, along, optimize=True)


def _weights(outputs, inputs, align_corners):
    weights = np.zeros((outputs, inputs))
    for o in range(outputs):
        if align_corners:
            place = o * (inputs - 1) / max(1, outputs - 1)
        else:
            place = max(0.0, (o + 0.5) * inputs / outputs - 0.5)
        low = min(int(place), inputs - 1)
        high = min(low + 1, inputs - 1)
        weights[o, low] += 1 - (place - low)
        weights[o, high] += place - low
    return weights
