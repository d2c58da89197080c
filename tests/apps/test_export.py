"""``scenewise export``: a file with the model's outputs, or one sentence and no file."""

import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from scenewise.apps.cli import main
from scenewise.exports import hub, load_exported, verify


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


def test_a_folder_and_then_the_hub(model_folder, tmp_path: Path, capsys, monkeypatch) -> None:
    uploaded: dict[str, object] = {}

    class Hub:
        def create_repo(self, name: str, exist_ok: bool) -> str:
            assert (name, exist_ok) == ("me/danet", True)
            return f"https://hub/{name}"

        def upload_file(self, *, path_or_fileobj, path_in_repo: str, repo_id: str) -> None:
            uploaded[path_in_repo] = path_or_fileobj

        def file_exists(self, name: str, file: str) -> bool:
            return file in uploaded

    monkeypatch.setattr(hub, "HfApi", Hub)
    assert export(model_folder, tmp_path / "out", "--push-to-hub", "me/danet") == 0
    assert "uploaded: https://hub/me/danet" in capsys.readouterr().out
    assert list(uploaded) == ["config.json", "model.safetensors", "README.md"]
    assert uploaded["config.json"] == tmp_path / "out" / "config.json"
    card = bytes(uploaded["README.md"]).decode()  # type: ignore[call-overload]
    assert card.startswith("---\nlibrary_name: scenewise\n")
    assert "classes: road, sky, car" in card
    uploaded["README.md"] = "edited"
    assert export(model_folder, tmp_path / "out", "--push-to-hub", "me/danet") == 0
    assert uploaded["README.md"] == "edited"


def test_without_the_hub_the_files_stay(model_folder, tmp_path: Path, capsys, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise huggingface_hub.errors.LocalTokenNotFoundError("no token")

    monkeypatch.setattr(hub.HfApi, "create_repo", refuse)
    assert export(model_folder, tmp_path / "out", "--push-to-hub", "me/danet") == 2
    output = capsys.readouterr().err
    assert "cannot upload to 'me/danet' (no token)" in output
    assert output.count("scenewise: error:") == 1
    assert (tmp_path / "out" / "model.safetensors").is_file()


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
