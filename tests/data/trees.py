"""Tiny datasets written for one test."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("road", "sky", "tree")


def write_pair(root: Path, split: str, name: str, size: tuple[int, int] = (13, 17)) -> np.ndarray:
    """One random image with its mask of ids 0..2 and 255; returns the mask."""
    for kind in ("images", "masks"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sum(map(ord, split + name)))
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    mask = rng.choice(np.array([0, 1, 2, 255], dtype=np.uint8), size)
    Image.fromarray(image).save(root / "images" / split / name)
    Image.fromarray(mask).save((root / "masks" / split / name).with_suffix(".png"))
    return mask


def write_tree(root: Path, train: int = 5, val: int = 3, size: tuple[int, int] = (13, 17)) -> Path:
    """A folder dataset of three classes."""
    for split, count in (("train", train), ("val", val)):
        for i in range(count):
            write_pair(root, split, f"p{i}.png", size)
    (root / "classes.json").write_text(json.dumps({"names": NAMES}))
    return root
