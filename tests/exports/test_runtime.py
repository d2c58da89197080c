"""Another runtime in a Predictor: same images in, same labels out."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from scenewise import Predictor
from scenewise.errors import UserError
from scenewise.exports import is_exported, load_exported, with_backend
from scenewise.inference.protocols import PROTOCOLS
from scenewise.models import Segmenter
from tests.exports.conftest import CLASSES

OPTIONS = [
    {},
    {"scales": (0.75, 1.5), "flip": True},
    {"window": (40, 48), "stride": 24, "merge": "logits"},
    {"window": 33, "flip": True, "merge": "danet"},
]


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def converted(request: pytest.FixtureRequest, danet: Segmenter) -> Segmenter:
    return Predictor(danet, backend=request.param).model


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(3, 61, 83)


@pytest.mark.parametrize("options", OPTIONS)
def test_scores_are_those_of_torch(options, converted, danet, image) -> None:
    expected = Predictor(danet, **options).scores(image)
    scores = Predictor(converted, **options).scores(image)
    assert_close(scores, expected, rtol=0, atol=1e-5)
    assert len(torch.unique(expected.argmax(0))) > 1


@torch.no_grad()
def test_protocols_work(converted, danet, image) -> None:
    small = partial(PROTOCOLS["danet_ss"], base=90, window=48, stride=32)
    expected, scores = (small(model.eval(), image) for model in (danet, converted))
    assert_close(scores, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_file_is_a_model(suffix, exports, danet, image) -> None:
    model = load_exported(exports[suffix].files[0])
    assert (model.classes, model.preprocessing) == (CLASSES, danet.preprocessing)
    assert model.align_corners is danet.align_corners
    assert_close(Predictor(model).scores(image), Predictor(danet).scores(image))


OVERLAPPING = """
import gc, os, signal, sys, openvino
from scenewise.exports import load_exported
from scenewise.exports.openvino import sharing_core
from tests import signal_stack
engines = [load_exported(sys.argv[1]) for _ in range(2)]
with sharing_core():
    engines.append(openvino.Core())
while engines:
    engines.pop(0)
    gc.collect()
stack = signal_stack.current()
if not stack.flags & 2:  # SS_DISABLE
    with open("/proc/self/maps") as file:
        bounds = [[int(end, 16) for end in line.split()[0].split("-")] for line in file]
    assert any(start <= stack.address < end for start, end in bounds)
signal.signal(signal.SIGUSR1, lambda number, frame: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_a_signal_is_survived_after_engines_that_overlapped(exports) -> None:
    """The stack on which handlers run is still there when the engines are gone."""
    words = [sys.executable, "-X", "faulthandler", "-c", OVERLAPPING, exports[".xml"].files[0]]
    root = Path(__file__).parents[2]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_the_model_is_not_changed(danet) -> None:
    model = danet.train()
    try:
        with_backend(model, "onnxruntime")
        assert model.training
        assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    finally:
        danet.eval()


def test_torch_is_the_model_itself(danet) -> None:
    assert with_backend(danet, "torch") is danet


def test_names_of_exported_files() -> None:
    assert [is_exported(name) for name in ("a.onnx", "b.xml", "c.pt2", "d.ckpt", "e")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        load_exported(path)
    return str(error.value)


def test_files_that_are_refused(exports, tmp_path: Path) -> None:
    assert "may run code" in refused(exports[".pt2"].files[0])
    assert "no such file" in refused(tmp_path / "none.onnx")
    assert "postprocessing inside (labels)" in refused(exports["labels.onnx"].files[0])
    assert "not an exported model" in refused(tmp_path)
    for suffix in (".onnx", ".xml"):
        (tmp_path / f"half{suffix}").write_bytes(exports[suffix].files[0].read_bytes()[:3000])
        assert "cannot load" in refused(tmp_path / f"half{suffix}")


def test_an_onnx_file_of_a_third_party_is_refused(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("a", "b")]
    graph = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", values[:1], values[1:])
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path / "a.onnx")
    assert "has no valid metadata of classes" in refused(tmp_path / "a.onnx")


def test_a_backend_for_an_exported_file_is_refused(exports) -> None:
    model = load_exported(exports[".onnx"].files[0])
    with pytest.raises(UserError, match="already has its runtime"):
        Predictor(model, backend="openvino")


def test_unknown_backends_and_missing_packages(danet, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="choose one of torch, onnxruntime, openvino"):
        Predictor(danet, backend="tensorrt")  # type: ignore[arg-type]
    for backend, package in (("onnxruntime", "onnx"), ("openvino", "openvino")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=r"pip install 'scenewise\[export\]'"):
            Predictor(danet, backend=backend)
