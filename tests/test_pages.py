"""The pages of docs/attention/ say what the code says."""

import pytest

from bench.pages import FOLDER, IDEAS, ROOT, SOURCE, Idea, index, page, readme_table


@pytest.mark.parametrize("idea", IDEAS, ids=lambda idea: idea.page.stem)
def test_page_is_up_to_date(idea: Idea) -> None:
    assert idea.page.read_text(encoding="utf-8") == page(idea), "run python -m bench.pages"
    assert (ROOT / idea.test).is_file()


def test_lists_are_up_to_date() -> None:
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == index()
    assert readme_table() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_attention_file_has_a_page() -> None:
    helpers = {"__init__", "layers"}
    files = {file.stem for file in (SOURCE / "attention").glob("*.py")} - helpers
    assert files <= {idea.page.stem for idea in IDEAS}
