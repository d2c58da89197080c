"""Small trees of own labels, each in the way that some people have theirs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Ids = NDArray[np.uint8]
SIZE = (6, 9)  # rows, columns


def truth(seed: int, count: int) -> Ids:
    """Class ids 0 to ``count`` - 1, all of them in every image."""
    flat = np.random.default_rng(seed).permutation(np.arange(SIZE[0] * SIZE[1]) % count)
    return flat.reshape(SIZE).astype(np.uint8)


def own_tree(
    root: Path,
    classes: Any = ("background", "disc"),
    stored: Callable[[Ids], Image.Image] = Image.fromarray,
    count: int = 2,
    image: str = "images/{split}/p{k}.png",
    mask: str = "masks/{split}/p{k}.png",
    splits: tuple[str, ...] = ("train", "val"),
) -> Path:
    """Three images a split with masks ``stored(truth(...))``; ``classes`` None for no list."""
    for split in splits:
        for k in range(3):
            seed = k + 10 * splits.index(split)
            pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)
            _save(root / image.format(split=split, k=k), Image.fromarray(pixels))
            _save(root / mask.format(split=split, k=k), stored(truth(seed, count)))
    if classes is not None:
        value = {"names": classes} if isinstance(classes, tuple) else classes
        (root / "classes.json").write_text(json.dumps(value))
    return root


def table(*values: int) -> Callable[[Ids], Image.Image]:
    """Masks that store ``values[k]`` for class k."""
    return lambda ids: Image.fromarray(np.array(values, np.uint8)[ids])


def colors(*values: tuple[int, int, int]) -> Callable[[Ids], Image.Image]:
    """Masks in these colours."""
    return lambda ids: Image.fromarray(np.array(values, np.uint8)[ids])


def indexed(*palette: tuple[int, int, int]) -> Callable[[Ids], Image.Image]:
    """Indexed masks with this palette."""

    def save(ids: Ids) -> Image.Image:
        image = Image.fromarray(ids)
        image.putpalette([channel for color in palette for channel in color])
        return image

    return save


def _save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"quality": 95} if path.suffix == ".jpg" else {}
    image.save(path, **options)
