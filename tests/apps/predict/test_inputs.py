"""Inputs: each image once, in order, under names that differ; shares of several processes."""

import os
from pathlib import Path

import pytest

from scenewise.apps.predict.distributed import Worker
from scenewise.apps.predict.inputs import Inputs
from scenewise.errors import UserError


def names(*paths: str) -> list[str]:
    return [name for _, name in Inputs(paths, must_exist=False)]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "notes.txt", "clip.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    return tmp_path


def test_names_are_as_short_as_they_can_be() -> None:
    assert names("x/a.png", "x/b.png") == ["a", "b"]
    assert names("x/a.png", "x/a.jpg") == ["a.png", "a.jpg"]
    assert names("x/a.png", "y/a.png") == ["x/a", "y/a"]
    assert names("x/a.png", "y/a.png", "y/a.jpg") == ["x/a.png", "y/a.png", "y/a.jpg"]
    assert names("a_overlay.png", "a.png") == ["a_overlay", "a"]
    assert names("a.v1.png", "a.v2.png") == ["a.v1", "a.v2"]


def test_names_differ_also_where_case_does_not_count() -> None:
    assert names("x/A.png", "y/a.png") == ["x/A", "y/a"]
    assert names("x/A.png", "x/a.png") == ["A.png", "a.png"]  # they differ only in case


def test_files_folders_and_patterns_are_found_once(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = Inputs([str(images / "b.jpg"), str(images), f"{images}/*.PNG"])
    assert [path.name for path, _ in inputs] == ["b.jpg", "a.PNG", "clip.mp4"]
    assert (len(inputs), inputs.left_out) == (3, 1)
    assert inputs.first_video() == images / "clip.mp4"
    odd = images / "c[1].png"
    odd.touch()
    assert [path for path, _ in Inputs([str(odd)])] == [odd]
    monkeypatch.chdir(images)
    assert [path for path, _ in Inputs(["a.PNG", "./a.PNG"])] == [Path("a.PNG")]


def test_of_links_to_one_image_the_first_by_name_counts(images: Path) -> None:
    (images / "z.jpg").symlink_to(images / "b.jpg")
    (images / "a2.jpg").symlink_to(images / "b.jpg")
    assert [name for _, name in Inputs([str(images)])] == ["a", "a2", "clip"]


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    for name in (b"\xff.png", b"\xfe.png"):
        (tmp_path / os.fsdecode(name)).touch()
    assert [os.fsencode(path.name) for path, _ in Inputs([str(tmp_path)])] == [
        b"\xfe.png",
        b"\xff.png",
    ]


def test_a_word_without_image(images: Path) -> None:
    with pytest.raises(UserError, match="no image found for"):
        Inputs([str(images), str(images / "*.bmp")])


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_hold_everything_once(size: int) -> None:
    shares = [list(Worker(rank, size).share(range(7))) for rank in range(size)]
    assert sorted(item for share in shares for item in share) == list(range(7))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("x", "2"), (None, "2"), ("-1", "2")])
def test_invalid_rank_and_world_size(
    rank: str | None, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    with pytest.raises(UserError, match="start the processes with torchrun"):
        Worker.from_environment()
