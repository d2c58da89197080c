"""Exported files of one network, shared: an export takes seconds."""

from pathlib import Path

import pytest

from scenewise.classes import Classes
from scenewise.exports import Export, export_model
from scenewise.models import Segmenter
from tests.toy_model import random_danet

CLASSES = Classes(("road", "sky", "car"), ((10, 20, 30), (40, 50, 60), (250, 0, 5)), 250)


@pytest.fixture(scope="session")
def danet() -> Segmenter:
    """Random weights, with attention that changes its input."""
    return random_danet(CLASSES)


@pytest.fixture(scope="session")
def exports(danet: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Export]:
    """By suffix; .onnx and .xml take normalised images, labels.onnx and .pt2 RGB ones."""
    folder: Path = tmp_path_factory.mktemp("exports")
    return {
        ".onnx": export_model(danet, folder / "danet.onnx"),
        "labels.onnx": export_model(danet, folder / "labels.onnx", "labels", opset=23),
        ".xml": export_model(danet, folder / "danet.xml"),
        ".pt2": export_model(danet, folder / "danet.pt2", "probabilities"),
    }
