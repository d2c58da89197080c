"""The README's code runs, and its commands do what it says."""

import re
import shlex
from pathlib import Path

import pytest

from scenewise.apps.cli import VERBS, main
from tests.data.trees import write_tree

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


def blocks(page: Path, language: str) -> list[str]:
    """The code of the given language on a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)


@pytest.mark.parametrize("number", range(len(blocks(ROOT / "README.md", "python"))))
def test_python_of_the_readme_runs(number: int) -> None:
    exec(compile(blocks(ROOT / "README.md", "python")[number], "README.md", "exec"), {})


def test_commands_of_the_readme_run_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a tiny data set, with a tiny network instead of a ResNet and two steps of training."""
    monkeypatch.chdir(tmp_path)
    write_tree(tmp_path / "DIR", size=(40, 56))
    for split in ("images", "masks"):
        (tmp_path / "DIR" / split / "test").symlink_to(tmp_path / "DIR" / split / "val")
    picture = next((tmp_path / "DIR" / "images" / "val").iterdir())
    (tmp_path / "street.jpg").write_bytes(picture.read_bytes())
    small = "--model.backbone tiny --trainer.max_steps 2 --trainer.accelerator cpu"
    shell = next(b for b in blocks(ROOT / "README.md", "sh") if "scenewise fit" in b)
    lines = [line.partition("#")[0].strip() for line in shell.splitlines()]
    for line in filter(None, lines):
        words = shlex.split(line.replace("--at 120,200", "--at 12,20"))
        assert words[0] == "scenewise"
        more = shlex.split(small) if words[1] == "fit" else []
        assert main([*words[1:], *more]) == 0, line
    assert (tmp_path / "labels" / "labels" / "street.png").is_file()
    assert (tmp_path / "why.png").is_file()


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip().startswith("scenewise "):
                    found.append((str(page.relative_to(ROOT)), line.strip()))
    return found


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_on_every_page_name_what_exists(
    page: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(command.partition(" #")[0])
    assert words[1] in VERBS
    assert main([words[1], "--help"]) == 0
    known = capsys.readouterr().out
    for word in words[2:]:
        name = word.partition("=")[0]
        if name.startswith("--") and name != "--model":
            assert name in known, f"{page} gives {name} to {words[1]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target
