"""Docstrings as the documentation's Markdown wants them: code and formulas marked as such."""

import re
from typing import Any

import griffe


class MarkedDocstrings(griffe.Extension):
    """Put doctests into code blocks and formulas between dollars before they are parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of one module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = marked(obj.docstring.value)


def marked(text: str) -> str:
    """The docstring with each paragraph that is a doctest or a formula marked.

    >>> print(marked("One.\\n\\n>>> 1 + 1\\n2"))
    One.
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    """
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph.startswith(">>>"):
            paragraph = f"```pycon\n{paragraph}\n```"
        elif paragraph.startswith(".. math::"):
            paragraph = f"$$ {' '.join(paragraph.removeprefix('.. math::').split())} $$"
        paragraphs.append(re.sub(r":\w+:`~?\.?([\w.]+)`", r"`\1`", paragraph))
    return "\n\n".join(paragraphs)
