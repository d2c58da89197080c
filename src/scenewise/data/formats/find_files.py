"""Where the files of a published data set lie, and plain words when they do not lie there."""

import os
from collections.abc import Sequence
from pathlib import Path

from scenewise.data.missing_files import missing, refuse
from scenewise.errors import UserError


def find_base(
    root: str | os.PathLike[str],
    what: str,
    needs: Sequence[str],
    under: Sequence[str] = (".",),
    instead: str = "",
) -> Path:
    """The first folder of ``root/under[0]``, ``root/under[1]``, ... that holds all of ``needs``.

    Args:
        root: what the user gave.
        what: name of the data set, for the message.
        needs: folders or files, relative to the folder that is looked for.
        under: where that folder may lie, relative to ``root``.
        instead: what other layouts need, for the message.

    Raises:
        UserError: nowhere all of them; says what was looked for, where, and what is missing.
    """
    places = [Path(root) / sub for sub in under]
    for place in places:
        if all((place / need).exists() for need in needs):
            return place
    best = max(places, key=lambda place: sum((place / need).exists() for need in needs))
    lost = ", ".join(f"'{best / need}'" for need in needs if not (best / need).exists())
    others = ", ".join(f"'{place}'" for place in places if place != best)
    also = f" (looked for the same in {others})" if others else ""
    also += f", nor {instead}" if instead else ""
    raise UserError(
        f"no {what} in '{root}': {lost} not found{also}; {_holds(Path(root))}; give the folder "
        "into which the publisher's archives were extracted"
    )


def check_pairs(images: Sequence[Path], masks: Sequence[Path], what: str) -> None:
    """Notice an empty or a half-extracted archive.

    Raises:
        UserError: no picture at all, or pictures or their labels are missing; counts them and
            names the first few.
    """
    if not images:
        raise UserError(f"no picture found for {what}; was the archive of pictures extracted?")
    for kind, files in (("pictures", images), ("labels", masks)):
        lost = missing(files)
        if lost:
            some = ", ".join(f"'{path.name}'" for path in lost[:3])
            refuse(
                f"{len(lost)} of {len(files)} {kind} of {what} are missing, the first are {some} "
                f"in '{lost[0].parent}'; was the archive extracted whole? extract it again"
            )


def read_names(path: Path) -> list[str]:
    """The first word of every line of a list file.

    Raises:
        UserError: the file is unreadable or lists nothing.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read list '{path}' ({error}); extract the archive again") from None
    names = [words[0] for line in lines if (words := line.split())]
    if not names:
        raise UserError(f"list '{path}' names no picture; extract the archive again")
    return names


def list_files(folder: Path, pattern: str) -> list[Path]:
    """The files of ``folder`` that match, in order of their names, without hidden ones."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def _holds(root: Path) -> str:
    if not root.exists():
        return "there is no such folder"
    if not root.is_dir():
        return "that is a file"
    names = sorted(os.listdir(root))
    more = ", ..." if len(names) > 6 else ""
    return f"it holds {', '.join(names[:6])}{more}" if names else "it is empty"
