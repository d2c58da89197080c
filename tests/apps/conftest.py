"""A model folder for the verbs that need one."""

from pathlib import Path

import pytest

from scenewise.classes import Classes
from tests.toy_model import random_danet

CLASSES = Classes(("road", "sky", "car"), ((10, 20, 30), (40, 50, 60), (250, 0, 5)))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DANet with random weights and three classes, as ``save_pretrained`` writes it."""
    folder = tmp_path_factory.mktemp("models") / "danet"
    random_danet(CLASSES).save_pretrained(folder)
    return folder
