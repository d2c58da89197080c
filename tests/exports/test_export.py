"""Exported files in their own runtimes, without this project."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from scenewise.errors import UserError
from scenewise.exports import export_model, load_exported, onnx_attention, verify
from scenewise.exports import onnx as onnx_file
from scenewise.exports.openvino import one_core
from scenewise.models import Segmenter, create_model, load_model
from scenewise.models.preprocessing import Preprocessing
from tests.attention.contract import randomise
from tests.exports.attentive import attentive
from tests.exports.conftest import CLASSES
from tests.toy_model import Pixels, PlaceHead, toy_model


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def normalised(model: Segmenter, rgb: np.ndarray) -> torch.Tensor:
    """By hand: (B, H, W, 3) -> (B, 3, H, W), each channel less its mean, over its deviation."""
    mean, std = np.array(model.preprocessing.mean), np.array(model.preprocessing.std)
    scaled = rgb / 255 * model.preprocessing.value_range
    if model.preprocessing.channel_order == "BGR":
        scaled = scaled[..., ::-1]
    return torch.from_numpy(((scaled - mean) / std).transpose(0, 3, 1, 2)).float()


def logits(model: Segmenter, rgb: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(normalised(model, rgb)).logits.numpy()


def test_onnx_opset_names_sizes_and_metadata(exports) -> None:
    model = onnx.load(exports[".onnx"].files[0])
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    sizes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
    }
    assert sizes == {
        "images": ["batch", 3, "height", "width"],
        "logits": ["batch", 3, "height", "width"],
    }
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["classes"]) == CLASSES.to_dict()
    assert metadata["opset"] == "18"
    assert metadata["postprocess"] == "none"
    assert json.loads(metadata["model"])["name"] == "danet"
    assert Preprocessing.from_dict(json.loads(metadata["preprocessing"])) == Preprocessing()


def test_position_attention_is_a_loop_or_one_operator(exports) -> None:
    kinds = [
        [node.op_type for node in onnx.load(exports[suffix].files[0]).graph.node]
        for suffix in (".onnx", "labels.onnx")
    ]
    assert ("Scan" in kinds[0], "Attention" in kinds[0]) == (True, False)
    assert ("Scan" in kinds[1], "Attention" in kinds[1]) == (False, True)
    assert "Scan" in exports[".onnx"].metadata["attention"]


def test_onnx_takes_images_and_returns_labels(exports, danet) -> None:
    session = onnxruntime.InferenceSession(exports["labels.onnx"].files[0])
    for shape in ((2, 51, 70), (1, 77, 40)):
        rgb = random_images(*shape)
        (labels,) = session.run(["labels"], {"images": rgb})
        assert labels.dtype == np.uint8
        assert len(np.unique(labels)) > 1
        assert np.array_equal(labels, logits(danet, rgb).argmax(1))


def test_openvino_is_a_pair_of_files(exports, danet) -> None:
    files = exports[".xml"].files
    assert [file.suffix for file in files] == [".xml", ".bin"]
    core = one_core()
    model = core.read_model(files[0])
    assert model.inputs[0].partial_shape.to_string() == "[?,3,?,?]"
    metadata = model.get_rt_info(["scenewise", "classes"]).value
    assert json.loads(metadata) == CLASSES.to_dict()
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    rgb = random_images(2, 51, 70)
    given = compiled({"images": normalised(danet, rgb).numpy()})["logits"]
    np.testing.assert_allclose(given, logits(danet, rgb), rtol=0, atol=1e-4)


def test_pt2_runs_without_this_project(exports, danet, tmp_path: Path) -> None:
    rgb = random_images(2, 51, 70)
    np.save(tmp_path / "rgb.npy", rgb)
    code = (
        "import sys, json, torch, numpy as np; extra = {'scenewise.json': ''}; "
        f"program = torch.export.load({str(exports['.pt2'].files[0])!r}, extra_files=extra); "
        "out = program.module()(torch.from_numpy(np.load('rgb.npy'))); "
        "np.save('out.npy', out.detach().numpy()); "
        "print(json.loads(json.loads(extra['scenewise.json'])['classes'])['names']); "
        "assert 'scenewise' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "['road', 'sky', 'car']"
    exponents = np.exp(logits(danet, rgb).astype(np.float64))
    expected = exponents / exponents.sum(1, keepdims=True)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=0, atol=1e-5)


def test_the_folder_is_a_model(danet, tmp_path: Path) -> None:
    export = export_model(danet, tmp_path / "folder")
    assert [file.name for file in export.files] == ["config.json", "model.safetensors"]
    assert [difference.largest for difference in export.differences] == [0.0, 0.0]
    assert load_model(tmp_path / "folder").classes == CLASSES


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_bgr_images_of_0_to_255(suffix: str, tmp_path: Path) -> None:
    model = toy_model(pointwise=True).float().eval()
    model.preprocessing = Preprocessing((100.0, 120.0, 90.0), (50.0, 60.0, 55.0), "BGR", 255.0)
    file, rgb = tmp_path / f"toy{suffix}", random_images(1, 9, 14)
    export_model(model, file, "logits")
    if suffix == ".onnx":
        given = onnxruntime.InferenceSession(file).run(None, {"images": rgb})[0]
    else:
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        given = one_core().compile_model(file, "CPU", settings)(rgb)[0]
    np.testing.assert_allclose(given, logits(model, rgb), rtol=0, atol=1e-4)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_padding_to_a_multiple_is_inside(suffix: str, tmp_path: Path) -> None:
    model = toy_model(pointwise=True, stride=2).float().eval()
    model.backbone.multiple = 8  # type: ignore[assignment]
    export_model(model, tmp_path / f"toy{suffix}")
    exported, images = load_exported(tmp_path / f"toy{suffix}"), torch.randn(2, 3, 13, 27)
    with torch.no_grad():
        torch.testing.assert_close(exported(images).logits, model(images).logits)


@pytest.mark.parametrize("entries", [100, 2000, 7001])
def test_blocks_of_queries_of_any_size_are_exact(
    entries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared at feature maps of 9 x 13 and 15 x 9 pixels, which the blocks do not divide."""
    monkeypatch.setattr(onnx_attention, "_BLOCK_ENTRIES", entries)
    model = randomise(create_model("position", num_classes=3, backbone="tiny")).eval()
    export = export_model(model, tmp_path / "position.onnx")  # type: ignore[arg-type]
    assert max(difference.relative for difference in export.differences) < 1e-5


def test_attention_stays_in_linear_memory(tmp_path: Path) -> None:
    """9409 pixels: the matrix of all pairs would take 354 MB."""
    export_model(attentive(), tmp_path / "one.onnx")
    code = (
        "import resource, numpy as np, onnxruntime; "
        "options = onnxruntime.SessionOptions(); options.intra_op_num_threads = 1; "
        "session = onnxruntime.InferenceSession('one.onnx', options); "
        "run = lambda side: session.run(None, {'images': np.zeros((1, 3, side, side), 'f')}); "
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        "run(16); before = peak(); run(97); print((peak() - before) // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 120


class Wrong(nn.Module):
    """Returns the output of the head, but another one while a graph is exported."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features):
        out = self.head(features)
        return out._replace(logits=out.logits + float(torch.compiler.is_exporting()))


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
@pytest.mark.parametrize("postprocess", [None, "labels"])
def test_a_graph_that_differs_leaves_no_file(suffix, postprocess, tmp_path: Path) -> None:
    model = toy_model().float().eval()
    with torch.no_grad():
        model.head.conv.weight.mul_(0.1)
    model.head = Wrong(model.head) if postprocess is None else Shifted(model.head)
    with pytest.raises(UserError, match="exported graph differs from the model"):
        export_model(model, tmp_path / f"wrong{suffix}", postprocess)
    assert list(tmp_path.iterdir()) == []


class Shifted(Wrong):
    def forward(self, features):
        out = self.head(features)
        return out._replace(
            logits=out.logits.roll(1, 1) if torch.compiler.is_exporting() else out.logits
        )


def test_labels_may_differ_where_two_classes_are_level() -> None:
    scores = torch.tensor([[2.0, 2.0 - 1e-6, 1.0]]).view(1, 3, 1, 1)
    level = verify._differ((1, 1, 1), scores, scores.argmax(1), torch.tensor([[[1]]]))
    assert level.relative < verify._TOLERANCE
    assert level.agreement == 0
    wrong = verify._differ((1, 1, 1), scores, scores.argmax(1), torch.tensor([[[2]]]))
    assert wrong.relative == pytest.approx(0.5)


def test_an_older_file_survives_a_failure(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "toy.onnx"
    file.write_bytes(b"older")
    monkeypatch.setattr(verify, "_TOLERANCE", -1.0)
    with pytest.raises(UserError, match="nothing is written"):
        export_model(toy_model(), file)
    assert file.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [file]


def test_more_than_2_gb_is_refused_for_onnx(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(onnx_file, "_LARGEST", 100)
    with pytest.raises(UserError, match="larger than ONNX's 2 GB"):
        export_model(toy_model(), tmp_path / "toy.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_traced_is_refused(tmp_path: Path) -> None:
    class Choosy(PlaceHead):
        def forward(self, features):
            if features[-1].sum() > 0:
                return super().forward(features)
            return super().forward([-features[-1]])

    model = Segmenter(Pixels(1), Choosy(2), classes=CLASSES.numbered(2)).eval()
    with pytest.raises(UserError, match="cannot convert this network"):
        export_model(model, tmp_path / "choosy.onnx")


def test_a_network_that_is_traced_for_one_size_only_is_refused(tmp_path: Path) -> None:
    """The toy's ramp is a constant in its graph: right for the first size, wrong for the second."""
    with pytest.raises(UserError, match="ONNX Runtime failed on an input of"):
        export_model(toy_model(), tmp_path / "toy.onnx")
    assert list(tmp_path.iterdir()) == []
