"""Outcome: how many images were labelled, and which could not be."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scenewise.errors import UserError

_MAX_NAMED = 20  # failures that are named one by one


@dataclass
class Outcome:
    """What became of the images.

    >>> Outcome(done=3, skipped=1).message("images", "out")
    "3 of 4 images labelled in 'out', 1 skipped that were finished before"
    """

    done: int = 0
    skipped: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)  # the first ones

    @property
    def counts(self) -> tuple[int, int, int]:
        """Done, skipped, failed."""
        return self.done, self.skipped, self.failed

    def fail(self, image: str | Path, reason: str) -> None:
        """Count an image that could not be labelled."""
        self.failed += 1
        if len(self.failures) < _MAX_NAMED:
            self.failures.append(reason if str(image) in reason else f"'{image}': {reason}")

    def message(self, kinds: str, out: str | Path, counts: Sequence[int] | None = None) -> str:
        """One sentence with the counts, those of all processes if they are given.

        Raises:
            UserError: images failed; its sentence names them.
        """
        done, skipped, failed = counts or self.counts
        message = f"{done} of {done + skipped + failed} {kinds} labelled in '{out}'"
        if skipped:
            message += f", {skipped} skipped that were finished before"
        if self.failures:
            more = self.failed - len(self.failures)
            rest = f"; and {more} more" if more else ""
            raise UserError(f"{message}; {'; '.join(self.failures)}{rest}")
        return message
