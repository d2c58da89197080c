"""Fingerprints change with what they stand for, and with nothing else."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from scenewise.data import SegmentationData
from scenewise.models.fingerprint import model_fingerprint
from scenewise.training.provenance import data_revision


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for kind in ("images", "masks"):
        (root / kind / "val").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in ("b", "a", "c"):
        shape = (5, 7)
        colours = generator.integers(0, 255, (*shape, 3), dtype=np.uint8)
        Image.fromarray(colours).save(root / "images" / "val" / f"{name}.png")
        ids = generator.integers(0, 2, shape, dtype=np.uint8)
        Image.fromarray(ids).save(root / "masks" / "val" / f"{name}.png")
    return root


def revision(root: Path) -> dict[str, object]:
    return data_revision(SegmentationData("folder", str(root)).dataset("val"))


def test_a_revision_is_the_hash_of_names_and_sizes(images: Path) -> None:
    sizes = {p.stem: p.stat().st_size for p in (images / "images" / "val").iterdir()}
    masks = {p.stem: p.stat().st_size for p in (images / "masks" / "val").iterdir()}
    lines = "\n".join(f"{name} {sizes[name]} {masks[name]}" for name in "abc")
    expected = {"images": 3, "sha256": hashlib.sha256(lines.encode()).hexdigest()}
    assert revision(images) == expected


def test_a_revision_does_not_depend_on_the_folder(images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "elsewhere")
    assert revision(tmp_path / "elsewhere") == revision(images)


@pytest.mark.parametrize("change", ["missing", "larger"])
def test_a_revision_changes_with_the_files(images: Path, change: str) -> None:
    before = revision(images)
    image, mask = (images / kind / "val" / "b.png" for kind in ("images", "masks"))
    if change == "missing":
        image.unlink()
        mask.unlink()
    else:
        mask.write_bytes(mask.read_bytes() + b"more")
    assert revision(images)["sha256"] != before["sha256"]


@pytest.mark.parametrize("name", ["weight", "running_mean", "num_batches_tracked"])
def test_a_model_changes_with_every_number(name: str) -> None:
    layer = nn.BatchNorm2d(3)
    before = model_fingerprint(layer)
    assert model_fingerprint(nn.BatchNorm2d(3)) == before
    with torch.no_grad():
        layer.state_dict()[name].view(-1)[0] += 1
    assert model_fingerprint(layer) != before


def test_a_model_changes_with_its_type_and_names() -> None:
    layer = nn.Linear(2, 2)
    prints = {model_fingerprint(m) for m in (layer, nn.Sequential(layer))}
    assert model_fingerprint(layer.double()) not in prints
    assert len(prints) == 2
