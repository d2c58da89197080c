"""Probabilities, maps, shares and the contact sheet of ``scenewise predict``."""

import argparse
import csv
import errno
import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from scenewise import Predictor, load_model
from scenewise.apps.cli import main
from scenewise.apps.predict.score_files import score_files
from scenewise.classes import Classes
from scenewise.data.images import as_floats


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, size in enumerate(((23, 41), (37, 29), (23, 41))):
        array = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(array).save(folder / f"{number}.png")
    return folder


def predict(*words: object) -> int:
    return main(["predict", *map(str, words), "--device", "cpu", "--no-overlay"])


def softmax(model_folder: Path, image: Path) -> np.ndarray:
    """Probabilities (K, H, W) in float64, of the network's full-size logits."""
    model = load_model(model_folder).eval()
    with torch.no_grad():
        logits = model(model.normalize(as_floats(image)[None])).logits[0].double().numpy()
    exponentials = np.exp(logits - logits.max(0))
    return exponentials / exponentials.sum(0)


def grey(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        assert image.mode == "L"
        return np.asarray(image)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_every_file_is_an_independent_softmax(model_folder, images, tmp_path):
    out, words = tmp_path / "out", (images, "--model", model_folder, "--out")
    assert predict(*words, tmp_path / "plain") == 0
    maps = ("--maps", "entropy,confidence")
    assert predict(*words, out, "--probabilities", "npz", *maps) == 0
    assert predict(*words, out, "--probabilities", "tiff") == 0
    chosen = ("--probability-classes", "car, road")
    assert predict(*words, out, "--probabilities", "png", *chosen) == 0
    for name in ("0", "1"):
        expected = softmax(model_folder, images / f"{name}.png")
        with np.load(out / f"probabilities/{name}.npz", allow_pickle=False) as stored:
            assert stored["probabilities"].dtype == np.float16
            assert np.abs(stored["probabilities"] - expected).max() < 2**-12 + 1e-6
            assert stored["classes"].tolist() == ["road", "sky", "car"]
            assert stored["class_ids"].tolist() == [0, 1, 2]
        tiff = out / f"probabilities/{name}.tiff"
        assert np.abs(tifffile.imread(tiff) - expected).max() < 1e-5
        with Image.open(tiff) as pages:  # another reader
            assert pages.n_frames == 3
            pages.seek(2)
            assert pages.tag_v2[285] == "car"
            assert np.abs(np.asarray(pages) - expected[2]).max() < 1e-5
        for number, folder in ((0, "0_road"), (2, "2_car")):
            stored = grey(out / f"probabilities/{folder}/{name}.png") / 255
            assert np.abs(stored - expected[number]).max() < 0.5 / 255 + 1e-5
        confidence = grey(out / f"confidence/{name}.png") / 255
        assert np.abs(confidence - expected.max(0)).max() < 0.5 / 255 + 1e-5
        entropy = -(expected * np.log(expected)).sum(0) / math.log(3)
        assert np.abs(grey(out / f"entropy/{name}.png") / 255 - entropy).max() < 0.5 / 255 + 1e-5
        assert entropy.std() > 0.01  # else a constant would pass
        labels = (
            Image.open(out / f"labels/{name}.png"),
            Image.open(tmp_path / f"plain/labels/{name}.png"),
        )
        assert np.array_equal(*map(np.asarray, labels))
    assert not (out / "probabilities/1_sky").exists()


def test_with_windows_and_mirror_images_they_are_the_scores(model_folder, images, tmp_path):
    words = (images, "--model", model_folder, "--out", tmp_path, "--window", "16", "--flip")
    assert predict(*words, "--probabilities", "tiff", "--probability-classes", "sky") == 0
    predictor = Predictor(load_model(model_folder), window=16, flip=True)
    for name in ("0", "1"):
        expected = predictor.scores(images / f"{name}.png")[1].numpy()
        stored = tifffile.imread(tmp_path / f"probabilities/{name}.tiff")
        assert np.abs(stored - expected).max() < 1e-6


def test_names_of_classes_become_names_of_folders():
    classes = Classes(("traffic light", "a/../b", "*", "?"), ((0, 0, 0),) * 4)
    args = argparse.Namespace(probabilities="png", probability_classes=None, maps=[])
    files = score_files(args, Path(), "x/y", classes)
    folders = [file.parts[1] for file in files]
    assert folders == ["0_traffic_light", "1_a_.._b", "2__", "3__"]
    assert {file.parts[2:] for file in files} == {("x", "y.png")}


def test_only_what_is_missing_or_of_other_options_is_repeated(
    model_folder, images, tmp_path, capsys
):
    def run(*options: object) -> str:
        assert predict(images, "--model", model_folder, "--out", tmp_path / "out", *options) == 0
        return capsys.readouterr().err

    npz = ("--probabilities", "npz")
    assert "3 of 3 images labelled" in run()
    assert "3 of 3 images labelled" in run(*npz, "--maps", "entropy")
    assert "3 skipped" in run(*npz)
    assert "3 skipped" in run("--maps", "entropy")
    assert "3 skipped" in run()
    (tmp_path / "out/probabilities/1.npz").unlink()
    assert "1 of 3 images labelled" in run(*npz)
    assert "3 of 3 images labelled" in run(*npz, "--probability-classes", "sky")
    with np.load(tmp_path / "out/probabilities/0.npz") as stored:
        assert stored["probabilities"].shape == (1, 23, 41)
    # labels of another image leave an entropy that is not of it: it is written again
    run("--maps", "entropy")
    Image.open(images / "1.png").save(images / "0.png")
    assert "1 of 3 images labelled" in run()
    assert "1 of 3 images labelled" in run("--maps", "entropy")


def test_shares_are_those_of_the_label_files(model_folder, images, tmp_path, monkeypatch):
    out, words = tmp_path / "out", (images, "--model", model_folder, "--shares", "--out")
    median = float(Predictor(load_model(model_folder))(images / "0.png").confidence.median())
    assert predict(*words, out, "--sure", median) == 0
    rows = list(csv.reader((out / "shares.csv").read_text().splitlines()))
    assert rows[0] == ["image", "road", "sky", "car", "(ignored)"]
    assert [row[0] for row in rows[1:]] == [str(images / f"{k}.png") for k in range(3)]
    for path, *shares in rows[1:]:
        ids = np.asarray(Image.open(out / "labels" / Path(path).name))
        expected = [(ids == k).mean() for k in (0, 1, 2, 255)]
        assert [float(share) for share in shares] == pytest.approx(expected, abs=1e-6)
    assert 0.3 < float(rows[1][-1]) < 0.7
    before = contents(out)
    (out / "shares.csv").unlink()
    assert predict(*words, out, "--sure", median) == 0  # nothing is labelled again
    assert contents(out) == before
    assert predict(*words, out, "--sure", median, "--again") == 0
    assert contents(out) == before
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert predict(*words, tmp_path / "shared", "--sure", median) == 0
    assert contents(tmp_path / "shared") == before


def test_the_contact_sheet_shows_the_least_certain(model_folder, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    colors = {"a": (250, 250, 0), "b": (0, 20, 250), "c": (250, 0, 0), "d": (128, 128, 128)}
    for name, color in colors.items():
        Image.new("RGB", (40, 30), color).save(folder / f"{name}.png")
    predictor = Predictor(load_model(model_folder))
    means = {name: float(predictor(folder / f"{name}.png").confidence.mean()) for name in colors}
    ranked = sorted(means, key=lambda name: means[name])
    words = (folder, "--model", model_folder, "--out", tmp_path / "out")
    assert predict(*words, "--contact-sheet", 3) == 0
    classes = predictor.model.classes
    with Image.open(tmp_path / "out/least_certain.png") as sheet:
        # two columns of two images, 320 x 240 each, under a line of text; then the legend
        assert sheet.width == 4 * 326
        for name, (left, top) in zip(ranked, ((0, 0), (652, 0), (0, 264)), strict=False):
            assert sheet.getpixel((left + 160, top + 138)) == colors[name]
            labels = predictor(folder / f"{name}.png").labels
            mixed = (np.array(colors[name]) + classes.colors[int(labels[15, 20])]) / 2
            shown = sheet.getpixel((left + 326 + 164, top + 138))
            assert np.abs(np.array(shown) - mixed).max() <= 1
        assert sheet.getpixel((652 + 160, 264 + 138)) == (0, 0, 0)  # there is no fourth
    assert predict(*words, "--contact-sheet", 200) == 0


def test_a_full_disk_leaves_nothing_half_written(
    model_folder, images, tmp_path, monkeypatch, capsys
):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "out"
    words = (images, "--model", model_folder, "--out", out, "--probabilities", "npz")
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        assert predict(*words) == 2
    assert "enough free space" in capsys.readouterr().err
    assert contents(out) == {}
    assert predict(*words) == 0
    assert "3 of 3 images labelled" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--probabilities", "jpg"], "hoose one of npz, png, tiff"),
        (["--probability-classes", "car"], "--probability-classes needs --probabilities"),
        (
            ["--probabilities", "npz", "--probability-classes", "raod,car"],
            "unknown class 'raod'; did you mean 'road'?",
        ),
        (["--maps", "entrpy"], "unknown map 'entrpy'; did you mean 'entropy'?"),
        (["--contact-sheet", "0"], "--contact-sheet takes 1 to 200 images, not 0"),
        (["--shares", "{video}"], "--shares is for images; leave out video"),
        (["--maps", "entropy", "{video}"], "--maps is for images; leave out video"),
    ],
)
def test_options_that_do_not_fit(model_folder, images, tmp_path, words, message, capsys):
    (tmp_path / "drive.mp4").write_bytes(b"")
    filled = [word.format(video=tmp_path / "drive.mp4") for word in words]
    start = ["predict", "--model", str(model_folder), "--out", str(tmp_path / "out")]
    assert main([*start, *filled, str(images)]) == 2
    stderr = capsys.readouterr().err
    assert message in stderr
    assert stderr.count("scenewise: error:") == 1
