"""Real images and weights for tests; they are not part of the project."""

import os
from pathlib import Path

import pytest

ROOT = Path(
    os.environ.get("SCENEWISE_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
)


def shared(name: str) -> Path:
    """The folder or file ``name`` of the shared data; skips the test if it is missing."""
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"shared data '{name}' not found")
    return path
