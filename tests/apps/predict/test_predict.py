"""``scenewise predict``: every image is labelled, or named at the end."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise import Predictor, load_model
from scenewise.apps.cli import main


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, size in (("a.png", (41, 23)), ("b.jpg", (29, 37))):
        array = np.random.default_rng(len(name)).integers(0, 256, (*size[::-1], 3), np.uint8)
        Image.fromarray(array).save(folder / name)
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def predict(*words: object) -> int:
    return main(["predict", *map(str, words), "--device", "cpu"])


def test_a_folder_gives_labels_overlays_and_classes(model_folder, images, tmp_path, capsys):
    (images / "notes.txt").write_text("not an image")
    out = tmp_path / "out"
    assert predict(images, "--model", model_folder, "--out", out) == 0
    assert files(out) == [
        "classes.json",
        "labels/a.png",
        "labels/b.png",
        "overlays/a.jpg",
        "overlays/b.jpg",
        "ranking.csv",
    ]
    stderr = capsys.readouterr().err
    assert "2 of 2 images labelled" in stderr
    assert "left out 1 other file" in stderr
    with Image.open(out / "labels/a.png") as labels, Image.open(out / "overlays/a.jpg") as drawn:
        assert labels.mode == "P"
        assert labels.size == drawn.size == (41, 23)
        assert labels.getpalette()[:9] == [10, 20, 30, 40, 50, 60, 250, 0, 5]
    assert json.loads((out / "classes.json").read_text())["names"] == ["road", "sky", "car"]


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ([], {}),
        (
            ["--scales", "0.5", "1.5", "--flip", "--window", "16", "24", "--stride", "9"],
            {"scales": (0.5, 1.5), "flip": True, "window": (16, 24), "stride": 9},
        ),
        (["--merge", "logits", "--window", "19"], {"merge": "logits", "window": 19}),
    ],
)
def test_the_labels_are_those_of_the_predictor(model_folder, images, tmp_path, options, arguments):
    image = images / "a.png"
    words = [image, "--model", model_folder, "--out", tmp_path / "out", "--no-overlay", *options]
    assert predict(*words) == 0
    assert files(tmp_path / "out") == ["classes.json", "labels/a.png", "ranking.csv"]
    expected = Predictor(load_model(model_folder), **arguments)(image).labels
    with Image.open(tmp_path / "out/labels/a.png") as labels:
        assert np.array_equal(np.asarray(labels), expected.numpy())


def test_a_protocol_is_used(model_folder, images, tmp_path):
    image, out = images / "a.png", tmp_path / "out"
    words = [image, "--model", model_folder, "--out", out, "--protocol", "mmseg_ms"]
    assert predict(*words) == 0
    predictor = Predictor.from_protocol(load_model(model_folder), "mmseg_ms")
    with Image.open(out / "labels/a.png") as labels:
        assert np.array_equal(np.asarray(labels), predictor(image).labels.numpy())


def test_an_unreadable_image_is_named_after_the_others_are_done(
    model_folder, images, tmp_path, capsys
):
    (images / "aa.png").write_bytes((images / "a.png").read_bytes()[:200])
    out = tmp_path / "out"
    assert predict(images, "--model", model_folder, "--out", out, "--no-overlay") == 2
    assert files(out) == ["classes.json", "labels/a.png", "labels/b.png", "ranking.csv"]
    stderr = capsys.readouterr().err
    assert "2 of 3 images labelled" in stderr
    assert "aa.png" in stderr
    assert "Traceback" not in stderr


def test_images_of_the_same_name_have_different_results(model_folder, images, tmp_path):
    (images / "deep").mkdir()
    for name in ("a.jpg", "deep/a.png"):
        Image.new("RGB", (20, 17)).save(images / name)
    out = tmp_path / "out"
    pattern = images / "**" / "*.*"
    assert predict(pattern, "--model", model_folder, "--out", out, "--no-overlay") == 0
    assert files(out / "labels") == ["a.jpg.png", "a.png.png", "b.jpg.png", "deep/a.png.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.png"], "no image found for 'nothing.png'"),
        (["*.what"], "no image found for"),
        (["{empty}"], "no image found for"),
        (["{a}", "--protocol", "danet"], "Choose one of danet_ss"),
        (["{a}", "--protocol", "danet_ss", "--flip"], "--protocol sets --flip itself"),
        (["{a}", "--quality", "best", "--flip"], "--quality sets --flip itself"),
        (["{a}", "--quality", "bst"], "did you mean 'best'?"),
        (["{a}", "--window", "1", "2", "3"], "--window takes a side"),
        (["{a}", "--window", "16", "--stride", "17"], "gaps"),
        (["{a}", "--scales", "0"], "scales"),
        (["{a}", "--opacity", "2"], "opacity"),
        (["{a}", "--merge", "sum"], "--merge"),
        (["{a}", "--device", "nowhere"], "device 'nowhere' is not available"),
        (["{a}", "--model", "no-such-folder"], "no-such-folder"),
    ],
)
def test_bad_words_are_one_sentence_and_exit_2(
    model_folder, images, tmp_path, words, message, capsys
):
    (tmp_path / "empty").mkdir()
    filled = [w.format(a=images / "a.png", empty=tmp_path / "empty") for w in words]
    start = ["predict", "--device", "cpu", "--model", str(model_folder)]
    assert main([*start, "--out", str(tmp_path / "out"), *filled]) == 2
    stderr = capsys.readouterr().err
    assert message in stderr
    assert stderr.count("scenewise: error:") == 1
    assert "Traceback" not in stderr


def test_an_unwritable_folder_ends_the_run(model_folder, images, tmp_path, capsys):
    out = tmp_path / "out"
    out.write_text("a file where the folder should be")
    assert predict(images, "--model", model_folder, "--out", out) == 2
    assert "cannot write" in capsys.readouterr().err


def test_the_random_network_is_not_constant(model_folder, images):
    """Else the comparisons above would mean nothing."""
    labels = Predictor(load_model(model_folder))(images / "a.png").labels
    assert len(torch.unique(labels)) > 1


def test_compiled_prediction_gives_the_same_labels(
    tmp_path: Path, model_folder: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the front end only; the compiler itself is tested by PyTorch."""
    calls: list[object] = []

    def compile_(function: object, **options: object) -> object:
        calls.append(options)
        return compile_all(function, backend="eager", **options)

    compile_all = torch.compile
    monkeypatch.setattr(torch, "compile", compile_)
    words = ["predict", str(images), "--model", str(model_folder)]
    assert main([*words, "--out", str(tmp_path / "plain")]) == 0
    assert main([*words, "--out", str(tmp_path / "compiled"), "--compile"]) == 0
    assert calls == [{"dynamic": True}]
    for file in (tmp_path / "plain" / "labels").iterdir():
        other = tmp_path / "compiled" / "labels" / file.name
        with Image.open(file) as one, Image.open(other) as two:
            assert np.array_equal(np.asarray(one), np.asarray(two))


def test_the_fastest_runtime_is_measured_on_the_first_image(model_folder, images, tmp_path, capsys):
    """Only PyTorch counts as installed, so that nothing is converted here."""
    out, words = tmp_path / "out", ["--model", model_folder, "--backend", "auto", "--no-overlay"]
    (images / "0.png").write_bytes(b"damaged, so the next one is taken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scenewise.apps.predict.backends.find_spec", lambda name: None)
        assert predict(images, *words, "--out", out) == 2
    stderr = " ".join(capsys.readouterr().err.split())
    assert "--backend auto takes torch" in stderr
    assert "for 23 x 41 pixels; onnxruntime is not installed; openvino is not installed" in stderr
    assert "2 of 3 images labelled" in stderr
    assert files(out / "labels") == ["a.png", "b.png"]


def test_auto_chooses_among_runtimes_alone(model_folder, images, tmp_path, capsys):
    words = [images, "--model", model_folder, "--backend", "auto", "--out", tmp_path / "out"]
    assert predict(*words, "--compile") == 2
    assert "--compile is for PyTorch" in capsys.readouterr().err
