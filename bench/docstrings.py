"""Docstrings as the documentation's Markdown wants them: code, formulas and tables."""

import re
from typing import Any

import griffe


class MarkedDocstrings(griffe.Extension):
    """Put doctests into code blocks and formulas between dollars; tables in Markdown."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of one module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = marked(obj.docstring.value)


def marked(text: str) -> str:
    """The docstring with its doctests, formulas, tables and entries as Markdown.

    >>> marked("One.\\n\\n>>> 1 + 1\\n2")
    'One.\\n\\n```pycon\\n>>> 1 + 1\\n2\\n```'
    """
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph.startswith(">>>"):
            paragraph = f"```pycon\n{paragraph}\n```"
        elif paragraph.startswith(".. math::"):
            paragraph = f"$$ {' '.join(paragraph.removeprefix('.. math::').split())} $$"
        elif re.match(r"(Args|Attributes):\n", paragraph):
            paragraph = one_name_each(paragraph)
        elif re.match(r"=+ +=", paragraph):
            paragraph = table(paragraph)
        paragraphs.append(re.sub(r":\w+:`~?\.?([\w.]+)`", r"`\1`", paragraph))
    return "\n\n".join(paragraphs)


def one_name_each(section: str) -> str:
    """A section in which an entry for several names is an entry for each of them.

    >>> print(one_name_each("Attributes:\\n    mean, std: a value\\n        a channel."))
    Attributes:
        mean: a value
            a channel.
        std: a value
            a channel.
    """

    def entries(match: re.Match[str]) -> str:
        return "\n".join(f"    {name}: {match[2]}" for name in match[1].split(", "))

    return re.sub(r"^ {4}(\w+(?:, \w+)+): (.*(?:\n {5,}.*)*)", entries, section, flags=re.MULTILINE)


def table(text: str) -> str:
    """A table between rules of equals signs, as Markdown writes it.

    >>> print(table("==== =====\\nkind says\\n==== =====\\na    one\\n     two\\n==== ====="))
    | kind | says |
    |---|---|
    | a | one two |
    """
    lines = text.splitlines()
    starts = [match.start() for match in re.finditer("=+", lines[0])]
    stops = [*starts[1:], None]
    rows: list[list[str]] = []
    for line in lines[1:]:
        cells = [line[start:stop].strip() for start, stop in zip(starts, stops, strict=True)]
        if cells[0].startswith("=="):
            continue
        if cells[0]:
            rows.append(cells)
        else:  # the row continues
            rows[-1] = [
                f"{cell} {more}".strip() for cell, more in zip(rows[-1], cells, strict=True)
            ]
    if sum(line.startswith("==") for line in lines) == 2:  # no header
        rows.insert(0, [""] * len(starts))
    body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([body[0], "|" + "---|" * len(starts), *body[1:]])
