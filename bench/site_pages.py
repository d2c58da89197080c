"""Hooks of the documentation site: formulas become MathML, files of the repository become pages.

A page links to a file as on a plain checkout, ``../src/scenewise/files.py``. On the site, that file
is a page of its own, ``source/src/scenewise/files.py/``, and the link leads there. Formulas are
converted when the site is built: no script, and no other host, renders them in the browser.
"""

import html
import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from math_core import LatexError, LatexToMathML
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound

ROOT = Path(__file__).parents[1]
DOCS = "docs/"
SOURCE = "source/"
IN_NAV = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE")
CODE_OR_LINK = re.compile(r"^```.*?^```|`[^`\n]*`|(?<=\]\()[^)\s#]+", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r'<(div|span) class="arithmatex">\\[\[(](.*?)\\[\])]</\1>', re.DOTALL)
CONVERTER = LatexToMathML(fancy_error=False)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add a page for every file of the repository that a page links to."""
    waiting = [file.src_uri for file in files.documentation_pages()]
    waiting += [site_path(path) for path in IN_NAV]
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        if path.startswith(SOURCE):
            add_source_page(files, path, config)
        file = files.get_file_from_path(path)
        if file and file.is_documentation_page():
            new = {link for link in linked(file.content_string, path) if link not in seen}
            seen |= new
            waiting += sorted(link for link in new if link.startswith(SOURCE))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files of the repository lead to their pages."""
    folder = posixpath.dirname(page.file.src_uri)

    def relative(link: str) -> str:
        target = resolve(link, page.file.src_uri)
        return posixpath.relpath(target, folder) if target else link

    return replace_links(markdown, relative)


def on_page_content(content: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Typeset the formulas."""
    try:
        return typeset(content)
    except LatexError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from error


def typeset(content: str) -> str:
    """HTML in which the formulas that arithmatex marked are MathML.

    >>> typeset('<span class="arithmatex">\\\\(a &lt; b\\\\)</span>')
    '<math><mi>a</mi><mo>&lt;</mo><mi>b</mi></math>'
    """

    def mathml(match: re.Match[str]) -> str:
        block = match[1] == "div"
        formula = CONVERTER.convert_with_local_state(html.unescape(match[2]), displaystyle=block)
        return f'<div class="formula">{formula}</div>' if block else formula

    return FORMULA.sub(mathml, content)


def replace_links(markdown: str, new: Callable[[str], str]) -> str:
    """Markdown with each link's target replaced, except in code.

    >>> replace_links("[a](b.md#c) `[a](b.md)`", str.upper)
    '[a](B.MD#c) `[a](b.md)`'
    """
    return CODE_OR_LINK.sub(lambda m: m[0] if m[0].startswith("`") else new(m[0]), markdown)


def linked(markdown: str, path: str) -> set[str]:
    """The pages and files of the site that ``markdown``, the page ``path``, links to."""
    links = [match[0] for match in CODE_OR_LINK.finditer(markdown) if match[0][0] != "`"]
    return {target for link in links if (target := resolve(link, path))}


def resolve(link: str, path: str) -> str | None:
    """Where a link of the page ``path`` leads on the site; None if it is no file of the project.

    >>> resolve("../src/scenewise/files.py", "data.md")
    'source/src/scenewise/files.py.md'
    >>> resolve("docs/data.md", "source/CONTRIBUTING.md")
    'data.md'
    """
    target = posixpath.normpath(posixpath.join(posixpath.dirname(repository_path(path)), link))
    return None if target.startswith("..") or not (ROOT / target).is_file() else site_path(target)


def repository_path(path: str) -> str:
    """The file in the repository that a page of the site is made from."""
    if not path.startswith(SOURCE):
        return DOCS + path
    path = path.removeprefix(SOURCE)
    return path if (ROOT / path).is_file() else path.removesuffix(".md")


def site_path(path: str) -> str:
    """The page of the site that is made from a file in the repository."""
    if path.startswith(DOCS):
        return path.removeprefix(DOCS)
    return SOURCE + path + ("" if path.endswith(".md") else ".md")


def add_source_page(files: Files, path: str, config: MkDocsConfig) -> None:
    """Add the page ``path``, made from a file of the repository."""
    file = repository_path(path)
    text = (ROOT / file).read_text(encoding="utf-8")
    content = text if file.endswith(".md") else code_page(file, text)
    files.append(File.generated(config, path, content=content, inclusion=InclusionLevel.NOT_IN_NAV))


def code_page(path: str, text: str) -> str:
    """A page that shows a file with line numbers, left out of the site's search."""
    try:
        language = get_lexer_for_filename(path).aliases[0]
    except ClassNotFound:
        language = TextLexer.aliases[0]
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=2))
    fence = max(fence, "```", key=len)
    return (
        f"---\ntitle: {posixpath.basename(path)}\nhide: [toc]\nsearch: {{exclude: true}}\n---\n\n"
        f'# {path}\n\n{fence}{language} linenums="1"\n{text.rstrip()}\n{fence}\n'
    )
