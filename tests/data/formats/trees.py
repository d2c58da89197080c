"""Writing the files of tiny datasets."""

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


def write_label(path: Path, ids: ArrayLike, palette: Sequence[int] | None = None) -> Path:
    """An image of one byte a pixel, optionally with a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(ids, dtype=np.uint8))
    if palette is not None:
        image.putpalette(list(palette))
    image.save(path)
    return path


def write_colors(path: Path, ids: ArrayLike, colors: dict[int, tuple[int, int, int]]) -> Path:
    """The label in colours, three bytes a pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((*np.shape(ids), 3), dtype=np.uint8)
    for k, color in colors.items():
        pixels[np.asarray(ids) == k] = color
    Image.fromarray(pixels).save(path)
    return path


def write_lines(path: Path, names: Sequence[str]) -> Path:
    """A list file, one name a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))
    return path


def write_mat(path: Path, **variables: Any) -> Path:
    """A MATLAB file."""
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables)
    return path


def ids(values: Sequence[int], size: tuple[int, int] = (5, 7)) -> np.ndarray:
    """A label map of ``size``: the values, repeated row by row."""
    return np.resize(np.asarray(values), size)
