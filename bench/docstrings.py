"""Docstrings as the documentation's Markdown wants them: code and formulas marked as such."""

import re
from typing import Any

import griffe


class MarkedDocstrings(griffe.Extension):
    """Put doctests into code blocks and formulas between dollars; one entry for each name."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of one module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = marked(obj.docstring.value)


def marked(text: str) -> str:
    """The docstring with each paragraph that is a doctest or a formula marked.

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
