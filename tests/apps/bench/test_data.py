"""The ways of the data bench do the same work."""

from pathlib import Path

import pytest
import torch

from scenewise.apps.bench import data


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "SIZE", (40, 80))
    monkeypatch.setattr(data, "WINDOW", 24)
    monkeypatch.setattr(data, "SCALES", (0.75, 2.0))


@pytest.mark.usefixtures("small")
def test_every_way_gives_a_window_of_picture_and_mask(tmp_path: Path) -> None:
    mask, pictures = data.write_pictures(tmp_path)
    assert sorted(pictures) == ["JPEG", "PNG"]
    for way, step in data.whole_ways(pictures["PNG"], mask).items():
        for scale in (0.75, 2.0):
            image, ids = _both(step(scale))
            assert tuple(image.shape) == (3, 24, 24), way
            assert tuple(ids.shape)[-2:] == (24, 24), way
            assert image.dtype == ids.dtype == torch.uint8


def _both(found: object) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(found, dict):
        return found["image"], found["mask"]
    assert isinstance(found, tuple)
    return found


@pytest.mark.usefixtures("small")
def test_rows_compare_with_the_first_way_and_leave_the_threads() -> None:
    threads = torch.get_num_threads()
    found = [row.to_dict() for row in data.rows(1)]
    assert torch.get_num_threads() == threads
    works = list(dict.fromkeys(row["work"].partition(" of ")[0] for row in found))
    assert works[:2] == ["PNG", "JPEG"]
    assert len(works) == 7
    firsts = [row for row in found if row["way"].startswith(("PIL", "torchvision"))]
    assert len(firsts) == 7
    assert all(row["time_ratio"] == 1 for row in firsts)
