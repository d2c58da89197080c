"""docs/bench.md: sections keep their order, and a subject that cannot run gives the reason."""

from pathlib import Path

import pytest

from bench import __main__ as document
from bench.scaling_figure import draw
from scenewise.errors import UserError

ROW = {"work": "N = 20, forward", "variant": "dense", "seconds": 0.25, "megabytes": 3.0}


def test_one_subject_is_measured_again_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "DOCUMENT", tmp_path / "bench.md")
    monkeypatch.setattr(document, "SUBJECTS", {"a": ("", "first"), "b": ("", "second")})
    monkeypatch.setattr(document, "machine", lambda: {"threads": 2})
    for seconds, words in [(0.25, []), (0.5, ["b"])]:
        rows = [ROW | {"seconds": seconds}]
        monkeypatch.setattr(document, "measurements", lambda subject, repeats, rows=rows: rows)
        monkeypatch.setattr("sys.argv", ["bench", *words])
        document.main()
    text = (tmp_path / "bench.md").read_text()
    first, second = text.split("## First")[1].split("## Second")
    assert "| 0.25 |" in first
    assert "| 0.5 |" in second
    assert text.count("| threads | 2 |") == 1


def test_a_subject_that_cannot_be_measured_gives_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(subject: str, repeats: int) -> list[dict[str, object]]:
        raise UserError("no GPU here")

    monkeypatch.setattr(document, "measurements", fail)
    assert document.section("attention", 1).endswith("Not measured: no GPU here.\n")


def test_the_figure_has_a_line_for_each_block(tmp_path: Path) -> None:
    rows = [ROW, ROW | {"variant": "tiles"}, ROW | {"work": "batch of", "variant": "2"}]
    draw(rows, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 5000
