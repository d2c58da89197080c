"""``scenewise predict``: every picture gets its labels, or is named at the end."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise import Predictor, load_model
from scenewise.apps.cli import main


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, size in (("a.png", (41, 23)), ("b.jpg", (29, 37))):
        array = np.random.default_rng(len(name)).integers(0, 256, (*size[::-1], 3), np.uint8)
        Image.fromarray(array).save(folder / name)
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def predict(*words: object) -> int:
    return main(["predict", *map(str, words), "--device", "cpu"])


def test_a_folder_gives_labels_overlays_and_classes(model_folder, pictures, tmp_path, capsys):
    (pictures / "notes.txt").write_text("no picture")
    out = tmp_path / "out"
    assert predict(pictures, "--model", model_folder, "--out", out) == 0
    assert files(out) == [
        "classes.json",
        "labels/a.png",
        "labels/b.png",
        "overlays/a.jpg",
        "overlays/b.jpg",
    ]
    told = capsys.readouterr().err
    assert "2 of 2 pictures labelled" in told
    assert "left out 1 other file" in told
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
def test_the_labels_are_those_of_the_predictor(
    model_folder, pictures, tmp_path, options, arguments
):
    picture = pictures / "a.png"
    words = [picture, "--model", model_folder, "--out", tmp_path / "out", "--no-overlay", *options]
    assert predict(*words) == 0
    assert files(tmp_path / "out") == ["classes.json", "labels/a.png"]
    expected = Predictor(load_model(model_folder), **arguments)(picture).labels
    with Image.open(tmp_path / "out/labels/a.png") as labels:
        assert np.array_equal(np.asarray(labels), expected.numpy())


def test_a_protocol_is_used(model_folder, pictures, tmp_path):
    picture, out = pictures / "a.png", tmp_path / "out"
    words = [picture, "--model", model_folder, "--out", out, "--protocol", "mmseg_ms"]
    assert predict(*words) == 0
    predictor = Predictor.from_protocol(load_model(model_folder), "mmseg_ms")
    with Image.open(out / "labels/a.png") as labels:
        assert np.array_equal(np.asarray(labels), predictor(picture).labels.numpy())


def test_an_unreadable_picture_is_named_after_the_others_are_done(
    model_folder, pictures, tmp_path, capsys
):
    (pictures / "aa.png").write_bytes((pictures / "a.png").read_bytes()[:200])
    out = tmp_path / "out"
    assert predict(pictures, "--model", model_folder, "--out", out, "--no-overlay") == 2
    assert files(out) == ["classes.json", "labels/a.png", "labels/b.png"]
    told = capsys.readouterr().err
    assert "2 of 3 pictures labelled" in told
    assert "aa.png" in told
    assert "Traceback" not in told


def test_pictures_of_one_name_stay_apart(model_folder, pictures, tmp_path):
    (pictures / "deep").mkdir()
    for name in ("a.jpg", "deep/a.png"):
        Image.new("RGB", (20, 17)).save(pictures / name)
    out = tmp_path / "out"
    pattern = pictures / "**" / "*.*"
    assert predict(pattern, "--model", model_folder, "--out", out, "--no-overlay") == 0
    assert files(out / "labels") == ["a.jpg.png", "a.png.png", "b.jpg.png", "deep/a.png.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.png"], "'nothing.png' names no picture"),
        (["*.what"], "names no picture"),
        (["{empty}"], "names no picture"),
        (["{a}", "--protocol", "danet"], "choose one of danet_ss"),
        (["{a}", "--protocol", "danet_ss", "--flip"], "--protocol sets --flip itself"),
        (["{a}", "--window", "1", "2", "3"], "--window takes a side"),
        (["{a}", "--window", "16", "--stride", "17"], "gaps"),
        (["{a}", "--scales", "0"], "scales"),
        (["{a}", "--opacity", "2"], "opacity"),
        (["{a}", "--merge", "sum"], "--merge"),
        (["{a}", "--device", "nowhere"], "no device 'nowhere'"),
        (["{a}", "--model", "no-such-folder"], "no-such-folder"),
    ],
)
def test_bad_words_are_one_sentence_and_exit_2(
    model_folder, pictures, tmp_path, words, message, capsys
):
    (tmp_path / "empty").mkdir()
    filled = [w.format(a=pictures / "a.png", empty=tmp_path / "empty") for w in words]
    start = ["predict", "--device", "cpu", "--model", str(model_folder)]
    assert main([*start, "--out", str(tmp_path / "out"), *filled]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("scenewise: error:") == 1
    assert "Traceback" not in told


def test_a_full_disk_stops_at_once(model_folder, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    out.write_text("a file where the folder should be")
    assert predict(pictures, "--model", model_folder, "--out", out) == 2
    assert "cannot write" in capsys.readouterr().err


def test_the_random_network_is_no_constant(model_folder, pictures):
    """Else the comparisons above would compare nothing."""
    labels = Predictor(load_model(model_folder))(pictures / "a.png").labels
    assert len(torch.unique(labels)) > 1


def test_compiled_prediction_gives_the_same_labels(
    tmp_path: Path, model_folder: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the front end alone: what the compiler itself does is PyTorch's to test."""
    seen: list[object] = []

    def compile_(function: object, **options: object) -> object:
        seen.append(options)
        return compile_all(function, backend="eager", **options)

    compile_all = torch.compile
    monkeypatch.setattr(torch, "compile", compile_)
    words = ["predict", str(pictures), "--model", str(model_folder)]
    assert main([*words, "--out", str(tmp_path / "plain")]) == 0
    assert main([*words, "--out", str(tmp_path / "compiled"), "--compile"]) == 0
    assert seen == [{"dynamic": True}]
    for file in (tmp_path / "plain" / "labels").iterdir():
        other = tmp_path / "compiled" / "labels" / file.name
        with Image.open(file) as one, Image.open(other) as two:
            assert np.array_equal(np.asarray(one), np.asarray(two))
