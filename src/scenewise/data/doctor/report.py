"""The report of a dataset check: findings, and statistics of each split."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from scenewise.classes import Classes

MAX_FILES = 5  # that a finding lists


@dataclass(frozen=True)
class Finding:
    """One problem of a split, how often it occurs, and the first few files.

    ``serious``: training would fail or learn nonsense. ``hint``: the probable reason.
    """

    kind: str
    split: str
    serious: bool
    message: str
    count: int = 1
    files: tuple[str, ...] = ()
    hint: str | None = None

    def __str__(self) -> str:
        text = f"{'ERROR' if self.serious else 'note '} {self.split}: {self.message}"
        if self.files:
            more = f" and {self.count - len(self.files)} more" if self.count > MAX_FILES else ""
            text += f" [{', '.join(self.files)}{more}]"
        return text + (f"\n      probably: {self.hint}" if self.hint else "")


@dataclass
class SplitReport:
    """Statistics of one split: images, sizes (height, width), pixels and images of each class."""

    images: int = 0
    readable: int = 0
    ignored: int = 0  # pixels
    pixels: list[int] = field(default_factory=list)  # of each class
    occurs_in: list[int] = field(default_factory=list)  # images with each class
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)

    @property
    def ignored_share(self) -> float:
        """Share of the pixels with the ignored id."""
        return self.ignored / max(1, self.ignored + sum(self.pixels))


@dataclass
class Report:
    """The result of :func:`scenewise.data.doctor.check`."""

    classes: Classes | None
    splits: dict[str, SplitReport]
    findings: list[Finding]
    images: str | None = None  # channels, bits and values of the images, in one line

    @property
    def ok(self) -> bool:
        """Whether the dataset is fit to train on."""
        return not any(finding.serious for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        names = self.classes.names if self.classes else ()
        return {
            "ok": self.ok,
            "classes": list(names),
            "images": self.images,
            "splits": {
                name: {
                    "images": split.images,
                    "readable": split.readable,
                    "ignored_share": split.ignored_share,
                    "pixels": dict(zip(names, split.pixels, strict=True)),
                    "images_with": dict(zip(names, split.occurs_in, strict=True)),
                    "sizes": {f"{h}x{w}": n for (h, w), n in split.sizes.most_common()},
                }
                for name, split in self.splits.items()
            },
            "findings": [vars(finding) | {"files": [*finding.files]} for finding in self.findings],
        }
