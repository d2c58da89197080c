"""Tiny datasets on disk, written in code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image


def write_image(path: Path, size: tuple[int, int] = (5, 7), seed: int = 0) -> Path:
    """An image of random colours, (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def label(path: Path, ids: ArrayLike, palette: Sequence[int] | None = None) -> Path:
    """An image of one byte a pixel, with a palette if one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(ids, dtype=np.uint8))
    if palette is not None:
        image.putpalette(list(palette))
    image.save(path)
    return path


def coloured(path: Path, ids: ArrayLike, colors: dict[int, tuple[int, int, int]]) -> Path:
    """The same in colours, three bytes a pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((*np.shape(ids), 3), dtype=np.uint8)
    for k, color in colors.items():
        pixels[np.asarray(ids) == k] = color
    Image.fromarray(pixels).save(path)
    return path


def lines(path: Path, names: Sequence[str]) -> Path:
    """A list file, one name a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))
    return path


def mat(path: Path, **variables: Any) -> Path:
    """A MATLAB file."""
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables)
    return path


def ids(values: Sequence[int], size: tuple[int, int] = (5, 7)) -> np.ndarray:
    """A map of ``size`` through which the values run row by row, again and again."""
    return np.resize(np.asarray(values), size)
