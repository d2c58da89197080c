"""Lower precision and fixed sizes: what is written, what is refused, which layers stay in float."""

import logging
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest
import torch

from scenewise.errors import UserError
from scenewise.exports import Export, Gate, export_model, load_exported
from scenewise.exports.gate import Labeller, graph_input, labeller
from scenewise.exports.onnx import OnnxEngine
from scenewise.exports.openvino import OpenVINOEngine
from scenewise.exports.quantize import load_nncf
from scenewise.exports.trace import Graph
from scenewise.models import Segmenter, create_model
from scenewise.training.metrics.confusion import confusion_matrix, mean_iou
from tests.attention.contract import randomise
from tests.toy_model import toy_model

IMAGES = torch.randint(0, 256, (6, 3, 40, 56), generator=torch.manual_seed(3), dtype=torch.uint8)
ENGINES = {".onnx": OnnxEngine, ".xml": OpenVINOEngine}
SIZE = (32, 48)


def gate_of(model: Segmenter, max_drop: float, calibration: int = 6) -> Gate:
    """The labels of the float model are the truth, so its mIoU is 100."""
    truth = [labeller(Graph(model), Graph(model))(image) for image in IMAGES]

    def score(label: Labeller, indices) -> tuple[float, list[float]]:
        pairs = [(label(IMAGES[i]), truth[i]) for i in indices]
        each = [(labels == target).double().mean().item() for labels, target in pairs]
        matrix = confusion_matrix(*map(torch.stack, zip(*pairs, strict=True)), len(model.classes))
        return 100 * mean_iou(matrix), each

    return Gate(score, len(IMAGES), list(IMAGES[:calibration]), max_drop)


@pytest.fixture(scope="module")
def small() -> Segmenter:
    """Random weights, several classes, and quick to export."""
    model = randomise(create_model("fcn", num_classes=3, backbone="tiny")).eval()
    with torch.no_grad():
        model.head.classify[1].bias -= Graph(model)(graph_input(Graph(model), IMAGES[0])).mean(
            (0, 2, 3)
        )
    return model


def _needs_nncf() -> None:
    """Skip without it; it is not imported here, as :func:`load_nncf` does more than that."""
    if find_spec("nncf") is None:
        pytest.skip("needs scenewise[quantize]")


@pytest.fixture(scope="module")
def quantised(small, tmp_path_factory) -> dict[str, Export]:
    _needs_nncf()
    folder = tmp_path_factory.mktemp("int8")
    return {
        suffix: export_model(
            small, folder / f"fcn{suffix}", precision="int8", gate=gate_of(small, 100.0)
        )
        for suffix in ENGINES
    }


@pytest.mark.parametrize("suffix", ENGINES)
def test_int8_computes_in_int8_and_names_its_layers(suffix, quantised) -> None:
    export = quantised[suffix]
    assert export.metadata["precision"] == "int8"
    assert export.layers["model.backbone.stages.0.0.0"]
    assert any(name.startswith("model.head.") for name, low in export.layers.items() if low)
    assert export.scores.before > 99.9  # the file in its runtime, of float32
    assert 50 < export.scores.after < 100  # not the float graph
    loaded = load_exported(export.files[0])
    assert loaded.engine.metadata["precision"] == "int8"
    assert loaded(torch.randn(2, 3, 33, 47)).logits.shape == (2, 3, 33, 47)  # still dynamic


def test_onnx_stores_int8_weights(quantised) -> None:
    model = onnx.load(quantised[".onnx"].files[0])
    onnx.checker.check_model(model, full_check=True)
    kinds = {t.data_type for t in model.graph.initializer if t.name.endswith("weight")}
    assert "DequantizeLinear" in {node.op_type for node in model.graph.node}
    assert onnx.TensorProto.FLOAT not in kinds


@pytest.mark.parametrize("suffix", ENGINES)
def test_layers_return_to_float_until_the_score_is_kept(suffix, small, quantised, tmp_path) -> None:
    all_low = quantised[suffix]
    drop = (all_low.scores.before - all_low.scores.after) / 2
    export = export_model(
        small, tmp_path / f"a{suffix}", precision="int8", gate=gate_of(small, drop)
    )
    assert export.scores.before - export.scores.after <= drop
    assert 0 < sum(export.layers.values()) < sum(all_low.layers.values())


def test_the_logging_of_the_process_stays() -> None:
    """NNCF's function for its level sets that of every handler at its logger, also of others."""
    _needs_nncf()
    nncf, handler = logging.getLogger("nncf"), logging.NullHandler()
    nncf.addHandler(handler)
    try:
        load_nncf()
    finally:
        nncf.removeHandler(handler)
    assert handler.level == logging.NOTSET
    assert logging.getLoggerClass() is logging.Logger  # for loggers that are made later


@pytest.mark.parametrize("suffix", ENGINES)
def test_fp16_halves_the_file_and_keeps_the_labels(suffix, small, tmp_path) -> None:
    export = export_model(
        small, tmp_path / f"a{suffix}", precision="fp16", gate=gate_of(small, 5.0)
    )
    weights = sum(4 * value.numel() for value in small.parameters())
    assert export.files[-1].stat().st_size < 0.8 * weights
    images = graph_input(Graph(small), IMAGES[0])
    got, exact = ENGINES[suffix](export.files[0])(images), small(images).logits
    difference = (got - exact).abs().max() / exact.abs().max()
    assert 1e-6 < difference < 1e-2
    if suffix == ".onnx":
        onnx.checker.check_model(onnx.load(export.files[0]), full_check=True)


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_a_fixed_size_is_the_only_one(suffix, tmp_path: Path) -> None:
    model = toy_model()
    file = tmp_path / f"a{suffix}"
    export = export_model(model, file, "labels", size=SIZE)
    assert export.metadata["input"] == "images: uint8 (1, 32, 48, 3), RGB"
    assert export.metadata["output"] == "labels: uint8 (1, 32, 48)"
    assert [d.shape for d in export.differences] == [(1, *SIZE)]
    if suffix in ENGINES:
        engine = ENGINES[suffix](file)
        assert engine(torch.zeros(1, *SIZE, 3, dtype=torch.uint8)).shape == (1, *SIZE)
        with pytest.raises(UserError, match="use another size"):
            engine(torch.zeros(1, 40, 56, 3, dtype=torch.uint8))


def test_a_fixed_graph_labels_images_of_other_sizes() -> None:
    """The image is resized to the graph, its labels back to the image."""
    image = torch.zeros(3, 8, 16, dtype=torch.uint8)
    image[:, :, 8:] = 255
    graph = Graph(toy_model())

    def bright(images: torch.Tensor) -> torch.Tensor:  # (1, 3, 4, 6) -> labels (1, 4, 6)
        assert images.shape == (1, 3, 4, 6)
        return (images.mean(1) > 0).long()

    labels = labeller(graph, bright, (4, 6))(image)
    assert labels.shape == (8, 16)
    assert torch.equal(labels, (image[0] > 0).long())


def test_a_gate_that_fails_leaves_no_file(small, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"fp16 loses .* so nothing is written"):
        export_model(small, tmp_path / "a.xml", precision="fp16", gate=gate_of(small, -1.0))
    assert list(tmp_path.iterdir()) == []


def test_lower_precision_is_refused_in_one_sentence(small, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fp16 needs labelled images to compare scores"):
        export_model(small, tmp_path / "a.onnx", precision="fp16")
    with pytest.raises(UserError, match=r"--precision fp16 is for .onnx and .xml files, not"):
        export_model(small, tmp_path / "a.pt2", precision="fp16", gate=gate_of(small, 1.0))
    with pytest.raises(UserError, match="--size 0 8 is for files with a graph"):
        export_model(small, tmp_path / "a.xml", size=(0, 8))
    _needs_nncf()
    with pytest.raises(UserError, match="1 calibration image is too few"):
        export_model(small, tmp_path / "a.xml", precision="int8", gate=gate_of(small, 1.0, 1))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_reported(small, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nncf", None)
    with pytest.raises(UserError, match=r"needs nncf; pip install 'scenewise\[quantize\]'"):
        export_model(small, tmp_path / "a.xml", precision="int8", gate=gate_of(small, 1.0))
