"""The lowest versions that `pyproject.toml` allows, as pip constraints, for `make lowest`.

`python -m bench.lowest` prints one `name==floor` a line. Only packages that we depend on directly
are pinned; pip chooses what they in turn need. Runs without the package or its dependencies.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[[\w,.-]+\])?(?P<range>[^;]*)")


def requirements(project: dict[str, Any]) -> list[str]:
    """Return the requirements of the package and of all its extras, without the package itself."""
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return [
        text for group in groups for text in group if not text.startswith(f"{project['name']}[")
    ]


def floor(requirement: str) -> str:
    """Return the constraint that holds a requirement to the lowest version it allows.

    >>> floor("jsonargparse[signatures]>=4.37,<5")
    'jsonargparse==4.37'

    Raises
    ------
    ValueError
        If the requirement has no `>=`: then every version ever published is allowed.
    """
    parts = REQUIREMENT.match(requirement)
    lowest = re.search(r">=\s*([\w.]+)", parts["range"]) if parts else None
    if not parts or not lowest:
        raise ValueError(f"{requirement!r} has no lowest version: write name>=version")
    return f"{parts['name']}=={lowest[1]}"


def constraints(pyproject: str) -> list[str]:
    """Return the constraints of a `pyproject.toml`, sorted by name."""
    project = tomllib.loads(pyproject)["project"]
    return sorted({floor(text) for text in requirements(project)}, key=str.lower)


if __name__ == "__main__":
    print("\n".join(constraints(PYPROJECT.read_text(encoding="utf-8"))))
