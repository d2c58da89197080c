"""HTML reports in one file, with their images embedded."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from scenewise.classes import Color

_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --quiet: #57606a; --page: #fff; --line: #d0d7de;
        --code: #f3f4f6; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6edf3; --quiet: #9da7b1; --page: #0d1117; --line: #3d444d; --code: #21262d; }
}
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem;
       color: var(--text); background: var(--page); }
h1, h2 { line-height: 1.2; }
h2 { margin-top: 2.5rem; }
p { max-width: 46rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
.grid { display: grid; gap: 1rem; margin: 1rem 0 2rem;
        grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
.grid figure { margin: 0; }
.grid img { width: 100%; }
figcaption { color: var(--quiet); font-size: .9rem; max-width: 60rem; }
code { background: var(--code); padding: .1rem .3rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; padding: 0; list-style: none; }
.legend span { display: inline-block; width: .9em; height: .9em; margin-right: .4em;
               border: 1px solid var(--line); vertical-align: -.1em; }
"""


def page(title: str, *parts: str) -> str:
    """A complete HTML document; ``parts`` come from the functions below.

    >>> page("Report", paragraph("all < well")).count("&lt;")
    1
    """
    name = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{name}</h1>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def heading(text: str) -> str:
    """The heading of a section."""
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str) -> str:
    """A paragraph of plain text, escaped."""
    return f"<p>{html.escape(text)}</p>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text, escaped.

    >>> table(["a"], [["<1>"]])
    '<div class="wide"><table><tr><th>a</th></tr><tr><td>&lt;1&gt;</td></tr></table></div>'
    """
    cells = [[f"<th>{html.escape(cell)}</th>" for cell in header]]
    cells += [[f"<td>{html.escape(cell)}</td>" for cell in row] for row in rows]
    content = "".join(f"<tr>{''.join(row)}</tr>" for row in cells)
    return f'<div class="wide"><table>{content}</table></div>'


def legend(entries: Iterable[tuple[str, Color]]) -> str:
    """Names of classes, escaped, each after a field of its colour.

    >>> legend([("<a>", (255, 0, 16))])
    '<ul class="legend"><li><span style="background:#ff0010"></span>&lt;a&gt;</li></ul>'
    """
    items = [
        f'<li><span style="background:#{r:02x}{g:02x}{b:02x}"></span>{html.escape(name)}</li>'
        for name, (r, g, b) in entries
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def figure(image: Image.Image | Path, caption: str, narrow: Path | None = None) -> str:
    """An embedded PNG with its caption, which is also its alternative text.

    Args:
        image: or the file of one.
        caption: plain text, escaped.
        narrow: the file of a figure that is shown instead on a phone.
    """
    text = html.escape(caption)
    shown = f'<img alt="{text}" src="{_data(image)}">'
    if narrow is not None:
        source = f'<source media="(max-width: 600px)" srcset="{_data(narrow)}">'
        shown = f"<picture>{source}{shown}</picture>"
    return f"<figure>{shown}<figcaption>{text}</figcaption></figure>"


def _data(image: Image.Image | Path) -> str:
    if isinstance(image, Path):
        content = image.read_bytes()
    else:
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        content = buffer.getvalue()
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def grid(figures: Sequence[str]) -> str:
    """Figures side by side."""
    return f'<div class="grid">{"".join(figures)}</div>'
