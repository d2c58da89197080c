"""What the check of a data set found, as values."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from scenewise.classes import Classes

NAMED = 5  # files that a finding names


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a split, in how many places, and the first few files.

    ``serious`` means that training would fail on it or learn nonsense. ``guess`` says what
    probably happened.
    """

    kind: str
    split: str
    serious: bool
    message: str
    count: int = 1
    files: tuple[str, ...] = ()
    guess: str | None = None

    def __str__(self) -> str:
        text = f"{'ERROR' if self.serious else 'note '} {self.split}: {self.message}"
        if self.files:
            more = f" and {self.count - len(self.files)} more" if self.count > NAMED else ""
            text += f" [{', '.join(self.files)}{more}]"
        return text + (f"\n      probably: {self.guess}" if self.guess else "")


@dataclass
class SplitReport:
    """What one split holds: pictures, sizes (height, width), pixels and pictures of each class."""

    pictures: int = 0
    readable: int = 0
    ignored: int = 0
    pixels: list[int] = field(default_factory=list)
    occurs_in: list[int] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)

    @property
    def ignored_share(self) -> float:
        """Share of the pixels that carry the ignored id."""
        return self.ignored / max(1, self.ignored + sum(self.pixels))


@dataclass
class Report:
    """Everything that :func:`check` found."""

    classes: Classes | None
    splits: dict[str, SplitReport]
    findings: list[Finding]

    @property
    def ok(self) -> bool:
        """Whether training can run and learn from this."""
        return not any(finding.serious for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-able values."""
        names = self.classes.names if self.classes else ()
        return {
            "ok": self.ok,
            "classes": list(names),
            "splits": {
                name: {
                    "pictures": split.pictures,
                    "readable": split.readable,
                    "ignored_share": split.ignored_share,
                    "pixels": dict(zip(names, split.pixels, strict=True)),
                    "pictures_with": dict(zip(names, split.occurs_in, strict=True)),
                    "sizes": {f"{h}x{w}": n for (h, w), n in split.sizes.most_common()},
                }
                for name, split in self.splits.items()
            },
            "findings": [vars(finding) | {"files": [*finding.files]} for finding in self.findings],
        }
