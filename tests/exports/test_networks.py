"""Networks of every kind have the same logits in other runtimes, at any size.

DANet itself is in test_export.py; ``python -m bench.exports`` runs all networks.
"""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from scenewise import create_model
from scenewise.exports import export_model
from scenewise.exports.openvino import one_core
from scenewise.models import Segmenter
from tests.attention.contract import randomise

SHAPES = ((3, 3, 49, 78), (1, 3, 90, 61))


def network(name: str) -> Segmenter:
    """Random weights and statistics; without them many attentions start as the identity."""
    model = create_model(name, num_classes=4, backbone="tiny")
    return randomise(model).eval()  # type: ignore[return-value]


def expected(model: Segmenter, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images).logits


def close(given: np.ndarray, logits: Tensor) -> None:
    assert_close(torch.from_numpy(given), logits, rtol=0, atol=2e-5 * logits.abs().max().item())


@pytest.mark.parametrize(
    "name", ["ccnet", "channel", "nonlocal", "ocnet_asp", "pspnet", "deeplabv3", "psanet"]
)
def test_onnx(name: str, tmp_path: Path) -> None:
    model, file = network(name), tmp_path / "network.onnx"
    export_model(model, file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for shape in SHAPES:
        images = torch.randn(shape)
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        close(logits, expected(model, images))


@pytest.mark.parametrize("name", ["ccnet", "position", "fcn"])
def test_openvino(name: str, tmp_path: Path) -> None:
    model, file = network(name), tmp_path / "network.xml"
    export_model(model, file)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = one_core().compile_model(file, "CPU", settings)
    for shape in SHAPES:
        images = torch.randn(shape)
        close(compiled({"images": images.numpy()})["logits"], expected(model, images))


@pytest.mark.parametrize("name", ["ccnet"])
def test_pt2(name: str, tmp_path: Path) -> None:
    model, file = network(name), tmp_path / "network.pt2"
    export_model(model, file)
    again = torch.export.load(file).module()
    for shape in SHAPES:
        images = torch.randn(shape)
        with torch.no_grad():
            close(again(images).numpy(), expected(model, images))
