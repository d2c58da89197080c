"""The built documentation: formulas are typeset, links lead somewhere, no other host is asked."""

import doctest
import html
import posixpath
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

from bench import docstrings, site_pages

ROOT = Path(__file__).parents[1]
LOADS = {"script": "src", "img": "src", "link": "href", "source": "src", "iframe": "src"}


class Names(HTMLParser):
    """Ids, links and loaded files of one page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record one element."""
        values = {name: value for name, value in attrs if value}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        if tag in LOADS and LOADS[tag] in values:
            self.loads.add(values[LOADS[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as ``make docs`` builds it, with no warning."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    environment = {"NO_MKDOCS_2_WARNING": "1", "PATH": ""}
    built = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Names]:
    """What each page of the site has, by the page's path."""
    return {str(page.relative_to(site)): Names(page) for page in site.rglob("*.html")}


def local(names: set[str]) -> Iterator[tuple[str, str]]:
    """Path and fragment of those that name no other host."""
    for name in names:
        parts = urlsplit(name)
        if not parts.scheme and not parts.netloc:
            yield unquote(parts.path), unquote(parts.fragment)


def test_every_link_of_the_site_leads_somewhere(site: Path, pages: dict[str, Names]) -> None:
    broken = []
    for page, names in pages.items():
        if page == "404.html":  # its links start at the root of the server
            continue
        for path, fragment in local(names.links | names.loads):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
            if not path:
                target = page
            elif (site / target).is_dir():
                target = posixpath.normpath(f"{target}/index.html")
            found = (site / target).is_file()
            if not found or (fragment and fragment not in pages[target].ids):
                broken.append((page, path, fragment))
    assert broken == []
    assert len(pages) > 100


def test_pages_load_nothing_from_another_host(pages: dict[str, Names]) -> None:
    loads = {name for names in pages.values() for name in names.loads}
    assert loads
    assert [name for name in loads if urlsplit(name).netloc] == []


def test_formulas_are_typeset(site: Path) -> None:
    written = 0
    for page in (ROOT / "docs" / "attention").glob("*.md"):
        formulas = len(re.findall(r"^\$\$ ", page.read_text("utf-8"), re.MULTILINE))
        built = (
            (site / "attention" / page.stem / "index.html").read_text("utf-8") if formulas else ""
        )
        assert built.count('<math display="block"') == formulas, page.name
        written += formulas
    assert written > 20
    assert "<math" in (site / "api" / "attention" / "index.html").read_text("utf-8")
    for file in site.rglob("*.html"):
        assert "arithmatex" not in file.read_text("utf-8"), file


def test_docstrings_leave_no_markup_behind(site: Path) -> None:
    """Tables, formulas, doctests and code of docstrings are rendered, not shown as written."""
    for page in [*(site / "api").rglob("*.html"), *(site / "attention").rglob("*.html")]:
        article = page.read_text("utf-8").partition("<article")[2].partition("</article>")[0]
        text = re.sub(r"<(pre|code|math)\b.*?</\1>|<[^>]*>", "", article, flags=re.DOTALL)
        assert len(text) > 400, page
        assert re.findall(r".*(?:====|\$\$|`|\.\. math|&gt;&gt;&gt;).*", text) == [], page


def test_a_formula_that_is_wrong_stops_the_build() -> None:
    with pytest.raises(site_pages.LatexError):
        site_pages.typeset(r'<div class="arithmatex">\[ \frac{a} \]</div>')


def test_files_of_the_repository_are_pages(site: Path) -> None:
    page = (site / "attention" / "position" / "index.html").read_text("utf-8")
    (link,) = re.findall(r'href="([^"]*position\.py/)">attention/position', page)
    shown = (site / "attention" / "position" / link / "index.html").read_text("utf-8")
    text = html.unescape(re.sub(r"<[^>]*>", "", shown))
    assert (ROOT / "src/scenewise/attention/position.py").read_text("utf-8").strip() in text


@pytest.mark.parametrize("fence", ["", "```\n", "a ```` b\n"])
def test_a_file_with_fences_is_one_block_of_code(fence: str) -> None:
    lines = site_pages.code_page("a/b.py", f"x = 1\n{fence}").splitlines()
    ticks = lines[-1]
    assert set(ticks) == {"`"}
    assert ticks not in fence
    assert f'{ticks}python linenums="1"' in lines


def test_links_in_code_are_left_alone() -> None:
    text = "[a](../src/x.py)\n\n```sh\n[b](../src/x.py)\n```\n"
    assert site_pages.replace_links(text, lambda _: "new") == text.replace("../src/x.py", "new", 1)


@pytest.mark.parametrize("link", ["https://example.org/a", "../../secret", "../src/none.py", "#a"])
def test_links_to_no_file_of_the_project_are_left_alone(link: str) -> None:
    assert site_pages.resolve(link, "data.md") is None


@pytest.mark.parametrize("module", [docstrings, site_pages], ids=lambda module: module.__name__)
def test_examples_of_the_hooks_hold(module: ModuleType) -> None:
    outcome = doctest.testmod(import_module(module.__name__))
    assert outcome.attempted
    assert outcome.failed == 0
