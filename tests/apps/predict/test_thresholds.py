"""``--threshold``: the labels of the Predictor's thresholds, chosen ones, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise import Predictor, load_model
from scenewise.apps.cli import main
from scenewise.apps.predict.thresholds import parse_thresholds
from scenewise.errors import UserError
from scenewise.exports.metadata import build_metadata, segmenter_arguments
from scenewise.models import create_model


@pytest.fixture
def image(tmp_path: Path) -> Path:
    values = np.random.default_rng(3).integers(0, 256, (37, 41, 3), np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def predict(*words: object) -> int:
    return main(["predict", *map(str, words), "--device", "cpu", "--no-overlay"])


def stored(out: Path) -> np.ndarray:
    with Image.open(out / "labels" / "a.png") as labels:
        return np.asarray(labels)


def test_labels_are_those_of_the_thresholds_in_every_way_of_predicting(
    model_folder: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = load_model(model_folder), tmp_path / "out"
    p = Predictor(model).scores(image)
    value = round(float(p[2].quantile(0.6)), 3)
    words = [image, "--model", model_folder, "--out", out]
    for options, arguments in (([], {}), (["--flip"], {"flip": True})):
        assert predict(*words, *options, "--threshold", f"car={value}") == 0
        predictor = Predictor(model, thresholds={"car": value}, **arguments)
        p = predictor.scores(image)
        expected = torch.where(p[2] >= value, 2, p[:2].argmax(0))
        near = (p[2] - value).abs() < 1e-6  # rounding
        labels, confidence = predictor(image)
        assert ((labels == expected) | near).all()
        assert torch.allclose(confidence, p.gather(0, labels[None])[0], atol=1e-6)
        assert np.array_equal(stored(out), labels.numpy())
        assert not torch.equal(labels, p.argmax(0))
    assert predict(*words, "--flip", "--threshold", f"car={value}") == 0
    assert "1 skipped" in capsys.readouterr().err
    assert predict(*words, "--flip", "--threshold", "car=0.9") == 0
    assert "1 skipped" not in capsys.readouterr().err


def test_chosen_ones_are_those_of_the_model_and_travel_with_it(
    model_folder: Path, image: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(model_folder, folder)
    plain = Predictor(load_model(folder))(image).labels
    words = [image, "--model", folder, "--out", out]
    assert predict(*words) == 0
    config = json.loads((folder / "config.json").read_text())
    thresholds = {"road": 0.5, "car": 0.2}
    (folder / "config.json").write_text(json.dumps(config | {"thresholds": thresholds}))
    model = load_model(folder)
    assert model.thresholds == thresholds
    assert torch.equal(Predictor(model)(image).labels, plain)  # only when asked
    expected = Predictor(model, thresholds=thresholds)(image).labels
    assert torch.equal(Predictor(model, thresholds="chosen")(image).labels, expected)
    before = (out / "labels" / "a.png").stat().st_mtime_ns
    assert predict(*words) == 0  # the model is the same
    assert (out / "labels" / "a.png").stat().st_mtime_ns == before
    assert predict(*words, "--threshold", "chosen") == 0
    assert np.array_equal(stored(out), expected.numpy())
    model.save_pretrained(tmp_path / "again")
    assert load_model(tmp_path / "again").thresholds == thresholds
    assert model.with_classes(model.classes).thresholds == {}


def test_an_exported_model_carries_them() -> None:
    model = create_model("fcn", num_classes=2, backbone="tiny")
    assert segmenter_arguments(build_metadata(model, None), "a.onnx")["thresholds"] == {}
    model.thresholds = {"class_1": 0.45}
    metadata = build_metadata(model, None)
    assert segmenter_arguments(metadata, "a.onnx")["thresholds"] == {"class_1": 0.45}
    for damaged in ('{"sky": 0.3}', '{"class_1": 2}', "[0.3]"):
        with pytest.raises(UserError, match="no valid metadata of classes"):
            segmenter_arguments(metadata | {"thresholds": damaged}, "a.onnx")


def test_words_of_the_option() -> None:
    model = create_model("fcn", num_classes=3, backbone="tiny")
    model.thresholds = {"class_0": 0.4, "class_1": 0.6}
    parsed = parse_thresholds(["chosen,class_1=0.3", "class_2=0.2"], model)
    assert parsed == {"class_0": 0.4, "class_1": 0.3, "class_2": 0.2}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("caar=0.3", "unknown class 'caar' of a threshold; did you mean 'car'?"),
        ("car=1", "the threshold of class 'car' is 1; give a number above 0 and below 1"),
        ("car=0", "the threshold of class 'car' is 0; give"),
        ("car=much", "the threshold of class 'car' is much; give"),
        ("car", "--threshold car is not CLASS=P; give for example road=0.3, or chosen"),
        ("car=0,3", "--threshold car=0,3 is not CLASS=P"),
        ("chosen", "the model has no chosen thresholds; choose them with scenewise test DIR"),
    ],
)
def test_bad_thresholds_are_one_sentence_and_exit_2(
    model_folder: Path,
    image: Path,
    tmp_path: Path,
    word: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert predict(image, "--model", model_folder, "--out", out, "--threshold", word) == 2
    stderr = capsys.readouterr().err
    assert message in stderr
    assert stderr.count("scenewise: error:") == 1
    assert not out.exists()


def test_thresholds_of_another_type_are_refused() -> None:
    model = create_model("fcn", num_classes=2, backbone="tiny")
    for value in ("all", [0.3, 0.4], 0.3):
        with pytest.raises(UserError, match="thresholds are a number for each class name"):
            Predictor(model, thresholds=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("bands", [[], ["--bands", "probabilities"]])
def test_rasters_have_them_too(
    model_folder: Path, image: Path, tmp_path: Path, bands: list[str]
) -> None:
    rasterio = pytest.importorskip("rasterio")
    words = [image, "--model", model_folder, "--out", tmp_path / "out", "--raster", "yes", *bands]
    assert predict(*words, "--threshold", "car=0.2") == 0
    expected = Predictor(load_model(model_folder), thresholds={"car": 0.2})(image).labels
    with rasterio.open(tmp_path / "out" / "labels" / "a.tif") as labels:
        assert np.array_equal(labels.read(1), expected.numpy())
