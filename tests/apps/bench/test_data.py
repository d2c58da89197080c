"""The variants of the data benchmark do the same work."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from scenewise.apps.bench import data


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_SIZE", (40, 80))
    monkeypatch.setattr(data, "_CROP", 24)
    monkeypatch.setattr(data, "_SCALES", (0.75, 2.0))


@pytest.mark.usefixtures("small")
def test_every_variant_crops_image_and_mask(tmp_path: Path) -> None:
    mask, images = data._write_images(tmp_path)
    assert sorted(images) == ["JPEG", "PNG"]
    for variant, step in data._pipelines(images["PNG"], mask).items():
        for scale in (0.75, 2.0):
            image, ids = _both(step(scale))
            assert tuple(image.shape) == (3, 24, 24), variant
            assert tuple(ids.shape)[-2:] == (24, 24), variant
            assert image.dtype == ids.dtype == torch.uint8


def _both(sample: object) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(sample, dict):
        return sample["image"], sample["mask"]
    assert isinstance(sample, tuple)
    return sample


@pytest.mark.usefixtures("small")
def test_rows_compare_with_the_first_variant_and_threads_are_restored() -> None:
    threads = torch.get_num_threads()
    table = [asdict(row) for row in data.rows(1)]
    assert torch.get_num_threads() == threads
    works = list(dict.fromkeys(row["work"].partition(" of ")[0] for row in table))
    assert works[:2] == ["PNG", "JPEG"]
    assert len(works) == 7
    firsts = [row for row in table if row["variant"].startswith(("PIL", "torchvision"))]
    assert len(firsts) == 7
    assert all(row["time_ratio"] == 1 for row in firsts)
