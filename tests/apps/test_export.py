"""``scenewise export``: a file with the model's outputs, or one sentence and no file."""

import io
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from scenewise import load_model
from scenewise.apps.cli import main
from scenewise.exports import load_exported, verify
from scenewise.exports.export import Export
from scenewise.exports.hub import push_to_hub
from scenewise.models.card import About
from scenewise.models.fingerprint import model_fingerprint
from tests.models import hub_server


def export(*words: object) -> int:
    return main(["export", *map(str, words)])


def test_onnx_with_labels(model_folder, tmp_path: Path, capsys) -> None:
    file = tmp_path / "made" / "danet.onnx"
    assert export(model_folder, file, "--postprocess", "labels", "--opset", 20) == 0
    output = capsys.readouterr().out
    assert "images: uint8 (batch, height, width, 3), RGB" in output
    assert "labels: uint8 (batch, height, width)" in output
    assert "opset     20" in output
    assert output.count("same") == len(verify._SIZES)
    assert "2 of 65 x 97 pixels: largest difference" in output
    assert f"written   {file}" in output
    rgb = np.random.default_rng(0).integers(0, 256, (1, 40, 31, 3), np.uint8)
    assert onnxruntime.InferenceSession(file).run(None, {"images": rgb})[0].shape == (1, 40, 31)
    assert [p.name for p in file.parent.iterdir()] == ["danet.onnx"]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub_server.Hub]:
    with hub_server.serving(monkeypatch, str(tmp_path / "cache")) as hub:
        yield hub


def newest(served: hub_server.Hub, name: str) -> dict[str, bytes]:
    repository = served.repositories[name]
    return repository.commits[repository.head]


# huggingface_hub sends the bytes of an upload as its HTTP client deprecates
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_folder_and_then_the_hub_and_back(
    model_folder, served, tmp_path: Path, capsys, caplog
) -> None:
    run = shutil.copytree(model_folder, tmp_path / "run")
    about = {"model_sha256": model_fingerprint(load_model(run)), "protocol": "whole images"}
    scores = {"val": {"miou": 0.5, "iou/road": 0.25}, "about": about}
    (run / "metrics.json").write_text(json.dumps(scores))
    image = tmp_path / "street.png"
    array = np.random.default_rng(0).integers(0, 256, (41, 59, 3), np.uint8)
    Image.fromarray(array).save(image)
    push = ["--push-to-hub", "me/danet", "--licence", "mit", "--overlay", image]
    assert export(run, tmp_path / "out", *push, "--dataset", "me/roads", "--private") == 0
    assert f"uploaded: {served.url}/me/danet" in capsys.readouterr().out
    files = newest(served, "me/danet")
    results = ".eval_results/roads.yaml"
    weights = "model.safetensors"
    assert set(files) == {"config.json", weights, "README.md", "overlay.png", results}
    assert files[weights] == (tmp_path / "out" / weights).read_bytes()
    card = ModelCard(files["README.md"].decode())
    assert (card.data.license, card.data.eval_results[0].metric_value) == ("mit", 50.0)
    assert "![" in card.text.partition("(overlay.png)")[0]
    with Image.open(io.BytesIO(files["overlay.png"])) as drawn:
        assert drawn.size == (59, 41)
    served.repositories["me/danet"].private = False  # as after a login
    options = ["--out", str(tmp_path / "labels"), "--device", "cpu"]
    assert main(["predict", str(image), "--model", "hf-hub:me/danet", *options]) == 0
    served.repositories["me/danet"].commit({"README.md": b"---\n---\nedited"})
    assert export(run, tmp_path / "out", *push) == 0
    assert "the model card of 'me/danet' was edited there and is kept" in caplog.text
    assert newest(served, "me/danet")["README.md"].endswith(b"edited")


def test_a_graph_has_its_configuration_beside_it(model_folder, served, tmp_path: Path) -> None:
    """What is uploaded, without writing a graph first."""
    model = load_model(model_folder)
    for names, shown in (
        (["danet.onnx"], "--model danet.onnx"),
        (["danet.xml", "danet.bin"], "--model danet.xml"),
    ):
        for name in names:
            (tmp_path / name).write_bytes(name.encode())
        written = Export([tmp_path / name for name in names], {}, [])
        push_to_hub(written, model, f"me/{names[0]}", About("mit"))
        files = newest(served, f"me/{names[0]}")
        assert set(files) == {"config.json", "README.md", *names}
        assert json.loads(files["config.json"]) == json.loads(json.dumps(model.config()))
        assert shown in files["README.md"].decode()


def test_without_the_hub_the_files_stay(model_folder, served, tmp_path: Path, capsys) -> None:
    served.refused = True
    push = ["--push-to-hub", "me/danet", "--licence", "mit"]
    assert export(model_folder, tmp_path / "out", *push) == 2
    output = capsys.readouterr().err
    assert "cannot upload to 'me/danet' (" in output
    assert "log in with hf auth login" in output
    assert output.count("scenewise: error:") == 1
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "an upload needs the licence of the model; give --licence with its identifier"),
        (["--licence", "MIT"], "'MIT' is not a licence of the hub"),
        (["--licence", "mit", "--metrics", "none.json"], "the scores in 'none.json' cannot be rea"),
        (["--licence", "mit", "--overlay", "none.png"], "none.png"),
    ],
)
def test_an_upload_is_checked_before_anything_is_written(
    words, message, model_folder, tmp_path: Path, capsys
) -> None:
    assert export(model_folder, tmp_path / "out", "--push-to-hub", "me/danet", *words) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_options_of_an_upload_without_an_upload(model_folder, tmp_path: Path, capsys) -> None:
    assert export(model_folder, tmp_path / "out", "--licence", "mit") == 2
    assert "--licence is for --push-to-hub NAME; give both" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{model}", "{out}/danet.h5"], "'danet.h5' has an unknown suffix; choose one of .onnx"),
        (["{model}", "{out}/danet.safetensors"], "a name without suffix for a folder"),
        (["no-such-folder", "{out}/danet.onnx"], "no model in 'no-such-folder'"),
        (["{model}", "{out}/danet.onnx", "--opset", "11"], "choose one of 18 to 25"),
        (["{model}", "{out}/danet.xml", "--opset", "20"], "has no opset"),
        (["{model}", "{out}/danet", "--postprocess", "labels"], "no graph for --postprocess"),
        (["{model}", "{out}/danet.onnx", "--postprocess", "colours"], "--postprocess"),
        (["{model}", "{out}/folder.onnx"], "is a folder; give the name of a file"),
        (["{model}", "{out}/file"], "is a file; give the name of a folder"),
        (["{model}", "{out}/file/danet.pt2"], "cannot write"),
    ],
)
def test_bad_words_are_one_sentence(model_folder, tmp_path, words, message, capsys) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "file").write_text("a file")
    assert export(*(word.format(model=model_folder, out=tmp_path) for word in words)) == 2
    output = capsys.readouterr().err
    assert message in output
    assert output.count("scenewise: error:") == 1
    assert "Traceback" not in output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.onnx"]


@pytest.mark.parametrize(
    ("package", "suffix"),
    [("onnx", ".onnx"), ("onnxscript", ".onnx"), ("onnxruntime", ".onnx"), ("openvino", ".xml")],
)
def test_a_missing_extra_is_reported(
    package, suffix, model_folder, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert export(model_folder, tmp_path / f"danet{suffix}") == 2
    assert f"this needs {package}; pip install 'scenewise[export]'" in capsys.readouterr().err


def test_a_difference_is_one_sentence_and_no_file(
    model_folder, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(verify, "_TOLERANCE", -1.0)
    assert export(model_folder, tmp_path / "danet.xml") == 2
    assert "differs from the model (2 of 65 x 97 pixels:" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_predict_takes_backends_and_files(model_folder, tmp_path, capsys) -> None:
    image = tmp_path / "street.png"
    array = np.random.default_rng(0).integers(0, 256, (41, 59, 3), np.uint8)
    Image.fromarray(array).save(image)
    assert export(model_folder, tmp_path / "danet.onnx") == 0
    commands = [
        ["--model", model_folder],
        ["--model", model_folder, "--backend", "onnxruntime"],
        ["--model", model_folder, "--backend", "openvino"],
        ["--model", tmp_path / "danet.onnx"],
    ]
    predicted = []
    for i, command in enumerate(commands):
        out = tmp_path / str(i)
        assert (
            main(["predict", str(image), "--out", str(out), "--device", "cpu", *map(str, command)])
            == 0
        )
        with Image.open(out / "labels" / "street.png") as labels:
            predicted.append(np.asarray(labels))
            assert labels.getpalette()[:3] == [10, 20, 30]
    assert len(np.unique(predicted[0])) > 1
    assert all(np.array_equal(labels, predicted[0]) for labels in predicted)
    assert load_exported(tmp_path / "danet.onnx").classes.names == ("road", "sky", "car")


def test_predict_keeps_another_runtime_on_the_cpu(model_folder, tmp_path, capsys) -> None:
    Image.new("RGB", (9, 7)).save(tmp_path / "a.png")
    words = ["predict", tmp_path / "a.png", "--model", model_folder, "--out", tmp_path / "out"]
    assert main([*map(str, words), "--backend", "openvino", "--device", "cuda"]) == 2
    assert "--device cuda is for --backend torch" in capsys.readouterr().err
