"""HTML reports in one file, with their images embedded."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
       color: #1b1f24; background: #fff; }
h1, h2 { line-height: 1.2; }
table { border-collapse: collapse; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid #d0d7de; text-align: right; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; }
.grid { display: grid; gap: .5rem; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); }
.grid figure { margin: 0; }
figcaption { color: #57606a; font-size: .9rem; }
code { background: #f3f4f6; padding: .1rem .3rem; }
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
    '<table><tr><th>a</th></tr><tr><td>&lt;1&gt;</td></tr></table>'
    """
    cells = [[f"<th>{html.escape(cell)}</th>" for cell in header]]
    cells += [[f"<td>{html.escape(cell)}</td>" for cell in row] for row in rows]
    return "<table>" + "".join(f"<tr>{''.join(row)}</tr>" for row in cells) + "</table>"


def figure(image: Image.Image | Path, caption: str) -> str:
    """An embedded PNG with its caption, which is also its alternative text."""
    if isinstance(image, Path):
        content = image.read_bytes()
    else:
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        content = buffer.getvalue()
    text = html.escape(caption)
    data = base64.b64encode(content).decode()
    return (
        f'<figure><img alt="{text}" src="data:image/png;base64,{data}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def grid(figures: Sequence[str]) -> str:
    """Figures side by side."""
    return f'<div class="grid">{"".join(figures)}</div>'
