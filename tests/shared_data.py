"""Where tests find the real pictures and weights that are no part of the project."""

import os
from pathlib import Path

import pytest

ROOT = Path(
    os.environ.get("SCENEWISE_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
)


def shared(name: str) -> Path:
    """The folder or file ``name`` of the shared data, or a skip that names it."""
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"shared data '{name}' is not here")
    return path
