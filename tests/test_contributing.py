"""CONTRIBUTING.md's recipe for a new block works as written, in a copy of the tree."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ("src", "tests", "bench", "docs", "README.md", "mkdocs.yml", "pyproject.toml")
BLOCK, TEST = "src/scenewise/attention/my_idea.py", "tests/attention/test_my_idea.py"


def code_blocks() -> list[str]:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    return [textwrap.dedent(b) for b in re.findall(r"^ +```python\n(.*?)^ +```", text, re.M | re.S)]


def edit(file: Path, before: str, after: str) -> None:
    text = file.read_text("utf-8")
    assert before in text
    file.write_text(text.replace(before, after, 1), "utf-8")


def test_a_new_block_needs_what_the_recipe_says_and_no_more(tmp_path: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)

    def run(*words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": "src", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    block, test = code_blocks()
    (tmp_path / BLOCK).write_text(block, "utf-8")
    (tmp_path / TEST).write_text(test, "utf-8")
    init = tmp_path / "src/scenewise/attention/__init__.py"
    edit(
        init,
        "\n\n__all__ = [",
        "\nfrom scenewise.attention.my_idea import MeanContext\n\n__all__ = [",
    )
    edit(init, "__all__ = [", '__all__ = [\n    "MeanContext",')
    edit(tmp_path / "bench/pages.py", "\nIDEAS = (", '\nIDEAS = (\n    block("my_idea"),')
    run("bench.pages")
    nav = "      - Overview: attention/README.md\n"
    edit(tmp_path / "mkdocs.yml", nav, f"{nav}      - Mean context: attention/my_idea.md\n")

    run("ruff", "check", "--fix", "--quiet", str(init))  # make format sorts the import
    run("ruff", "check", BLOCK, TEST, str(init))
    run("ruff", "format", "--check", BLOCK, TEST, str(init))
    passed = run(
        "pytest",
        "-p",
        "no:cacheprovider",
        BLOCK,
        TEST,
        "tests/test_layers.py",
        "-v",
        "-k",
        "not light",
    )
    assert re.search(r"\d{2,} passed", passed)
    pages = run("pytest", "-p", "no:cacheprovider", "tests/test_pages.py", "-v")
    assert "failed" not in pages
    readme = (tmp_path / "README.md").read_text("utf-8")
    assert "| `MeanContext` | [my_idea.py](src/scenewise/attention/my_idea.py) |" in readme
