"""Files of 200 MB are deleted after each test."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _cleared(tmp_path: Path) -> Iterator[None]:
    yield
    shutil.rmtree(tmp_path)
