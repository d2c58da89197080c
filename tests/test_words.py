"""The field's words: no dialect in what users and readers see.

Not a style guide: only phrases that are never right here, each with what to write instead.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A pattern, and what to write.
NEVER = {
    r"strangers?": "untrusted file, third party",
    r"go(es|ing)? over to": "falls back to",
    r"(to|can|could) be had": "available",
    r"told to stop": "terminated (SIGTERM), interrupted",
    r"side (heads?|scores?)": "auxiliary head, auxiliary logits",
    r"enlarge[sd]?": "upsample",
    r"data sets?": "dataset",
    r"verbs?": "command",
    r"tells? (you|the user|people|what|that|how|whether|which|of)": "says, reports, prints",
    r"is no (picture|image|file|folder|model|number|checkpoint|JSON)": "is not a valid ...",
    r"pictures? (by|of|for) picture": "image by image",
    r"one behind the other": "in sequence, chained",
    r"an own \w+": "our own, a separate",
    r"of (its|their|your) own parts": "custom parts",
    r"lies (in|there|beside|under|on)": "is in",
}
# Where a phrase above is another word: file and line hold it rightly.
ALLOWED = {
    r"enlarge[sd]?": r"image is enlarged",  # what a person sees on the page, not logits
    r"is no (picture|image|file|folder|model|number|checkpoint|JSON)": r"there is no",
}
FILES = [
    *(ROOT / "src").rglob("*.py"),
    *(ROOT / "docs").rglob("*.md"),
    *ROOT.glob("*.md"),
]


def lines(pattern: str) -> list[str]:
    """Where the phrase occurs, line breaks inside it included."""
    found = []
    phrase = re.compile(rf"\b{pattern.replace(' ', chr(92) + 's+')}\b", re.IGNORECASE)
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        for match in phrase.finditer(text):
            line = text[: match.start()].count("\n") + 1
            context = text[max(0, match.start() - 30) : match.end() + 30]
            if pattern not in ALLOWED or not re.search(ALLOWED[pattern], context):
                found.append(f"{file.relative_to(ROOT)}:{line}: {match[0]!r}")
    return found


@pytest.mark.parametrize("pattern", NEVER)
def test_a_phrase_that_is_never_right(pattern: str) -> None:
    assert lines(pattern) == [], f"write: {NEVER[pattern]}"


def test_image_is_the_word_for_the_input() -> None:
    """``picture`` stays only where a figure or drawing is meant."""
    # a drawing; a column that others name so; an element of HTML
    allowed = ("contact_sheet.py", "hugging_face.py", "visualize/report.py")
    found = [line for line in lines("pictures?") if line.startswith("src")]
    assert [line for line in found if not any(name in line for name in allowed)] == []
