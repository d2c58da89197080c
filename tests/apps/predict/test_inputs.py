"""Pictures are found once, in order, under names that differ, in a memory that does not grow."""

import os
import tracemalloc
from pathlib import Path

import pytest

from scenewise.apps.predict.distributed import Processes
from scenewise.apps.predict.inputs import Listing
from scenewise.errors import UserError


def names(*paths: str) -> list[str]:
    return [name for _, name in Listing(paths, must_exist=False)]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
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
    assert names("x/A.png", "x/a.png") == ["A.png", "a.png"]  # they can only be told by case


def test_files_folders_and_patterns_are_found_once(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = Listing([str(pictures / "b.jpg"), str(pictures), f"{pictures}/*.PNG"])
    assert [path.name for path, _ in listing] == ["b.jpg", "a.PNG", "clip.mp4"]
    assert (len(listing), listing.left_out) == (3, 1)
    assert listing.first_video() == pictures / "clip.mp4"
    odd = pictures / "c[1].png"
    odd.touch()
    assert [path for path, _ in Listing([str(odd)])] == [odd]
    monkeypatch.chdir(pictures)
    assert [path for path, _ in Listing(["a.PNG", "./a.PNG"])] == [Path("a.PNG")]


def test_of_links_to_one_picture_the_first_by_name_counts(pictures: Path) -> None:
    (pictures / "z.jpg").symlink_to(pictures / "b.jpg")
    (pictures / "a2.jpg").symlink_to(pictures / "b.jpg")
    assert [name for _, name in Listing([str(pictures)])] == ["a", "a2", "clip"]


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    for name in (b"\xff.png", b"\xfe.png"):
        (tmp_path / os.fsdecode(name)).touch()
    assert [os.fsencode(path.name) for path, _ in Listing([str(tmp_path)])] == [
        b"\xfe.png",
        b"\xff.png",
    ]


def test_a_word_without_picture(pictures: Path) -> None:
    with pytest.raises(UserError, match="names no picture"):
        Listing([str(pictures), str(pictures / "*.bmp")])


def test_memory_does_not_grow_with_the_folder(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        for number in range(count):
            (tmp_path / f"a rather long name of a picture, number {number}.png").touch()
        tracemalloc.start()
        try:
            assert sum(1 for _ in Processes(1, 3).share(Listing([str(tmp_path)]))) == count // 3
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few = peak(30)
    assert peak(9000) < few + 300_000  # a list of the names alone has a million bytes


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_hold_everything_once(size: int) -> None:
    shares = [list(Processes(rank, size).share(range(7))) for rank in range(size)]
    assert sorted(item for share in shares for item in share) == list(range(7))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("x", "2"), (None, "2"), ("-1", "2")])
def test_wrong_numbers_of_processes(
    rank: str | None, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    with pytest.raises(UserError, match="start the processes with torchrun"):
        Processes.from_environment()
