"""Photometric distortion against the standard library's colorsys; half of the images change."""

import colorsys

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from scenewise.data.photometric import PhotometricDistortion, _rotate_hue


@pytest.mark.parametrize(
    ("turns", "saturation"), [(0.1, 1.0), (-0.37, 0.5), (0.0, 1.5), (0.93, 0.0)]
)
def test_hue_and_saturation_are_those_of_hsv(turns: float, saturation: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 3))
    pixels[:6] = [(0, 0, 0), (255, 255, 255), (7, 7, 7), (255, 0, 0), (9, 9, 200), (40, 40, 0)]
    expected = []
    for red, green, blue in pixels / 255:
        hue, s, value = colorsys.rgb_to_hsv(red, green, blue)
        expected.append(colorsys.hsv_to_rgb((hue + turns) % 1, min(1.0, s * saturation), value))
    rgb_float = torch.tensor(pixels.T, dtype=torch.float64).view(3, 5, 10)
    result = _rotate_hue(rgb_float.clone(), turns, saturation).flatten(1).T / 255
    assert torch.allclose(result, torch.tensor(expected, dtype=torch.float64), atol=1e-6)


def image(*color: int) -> tv_tensors.Image:
    return tv_tensors.Image(torch.tensor(color, dtype=torch.uint8).view(3, 1, 1).repeat(1, 2, 3))


def results(distortion: PhotometricDistortion, image: tv_tensors.Image) -> list[list[int]]:
    mask = tv_tensors.Mask(torch.zeros(2, 3, dtype=torch.uint8))
    return [distortion(image, mask)[0][:, 1, 2].tolist() for _ in range(400)]


@pytest.mark.parametrize(
    ("name", "amount", "low", "high"),
    [("brightness", 32.0, 68, 132), ("contrast", 0.5, 50, 150)],
)
def test_each_change_has_its_range(name: str, amount: float, low: int, high: int) -> None:
    still = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    greys = results(PhotometricDistortion(**(still | {name: amount})), image(100, 100, 100))
    assert all(red == green == blue for red, green, blue in greys)
    values = [red for red, _, _ in greys]
    assert low <= min(values) <= low + 3
    assert high - 3 <= max(values) <= high
    assert 150 < values.count(100) < 260  # half are unchanged


def test_saturation_pulls_towards_the_largest_channel() -> None:
    colors = results(PhotometricDistortion(0, 0, 0.5, 0), image(100, 50, 50))
    assert all(red == 100 and green == blue for red, green, blue in colors)
    others = [green for _, green, _ in colors]
    assert 25 <= min(others) <= 27
    assert 73 <= max(others) <= 75


def test_hue_stays_within_its_tenth_of_the_circle() -> None:
    colors = results(PhotometricDistortion(0, 0, 0, 0.1), image(200, 0, 0))
    hues = [(colorsys.rgb_to_hsv(*(v / 255 for v in rgb))[0] + 0.5) % 1 - 0.5 for rgb in colors]
    assert -0.101 <= min(hues) < -0.09  # a level of 200 is 0.0008 of the circle
    assert 0.09 < max(hues) <= 0.101


def test_values_stop_at_black_and_white() -> None:
    assert (
        max(v for rgb in results(PhotometricDistortion(), image(250, 250, 250)) for v in rgb) == 255
    )
    assert min(v for rgb in results(PhotometricDistortion(), image(3, 3, 3)) for v in rgb) == 0
