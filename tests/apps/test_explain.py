"""``scenewise explain``: a figure and a report of what pixels attend to."""

import html
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise import create_model, load_model
from scenewise.apps.cli import main
from scenewise.apps.explain import _most_confident_pixel
from scenewise.errors import UserError
from scenewise.inference.predictor import Prediction, Predictor
from scenewise.visualize import ablate, explained
from tests.apps.conftest import CLASSES
from tests.attention.contract import randomise


@pytest.fixture
def image(tmp_path):
    array = np.random.default_rng(3).integers(0, 256, (41, 59, 3), np.uint8)
    Image.fromarray(array).save(tmp_path / "street.png")
    return tmp_path / "street.png"


def explain(*words: object) -> int:
    return main(["explain", *map(str, words), "--device", "cpu"])


def test_figure_and_report(model_folder, image, tmp_path, capsys):
    out, page = tmp_path / "figure.svg", tmp_path / "page.html"
    words = [image, "--model", model_folder, "--at", "3,58", "--at", "40,0", "--out", out]
    assert explain(*words, "--report", page) == 0
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert printed.out.splitlines()[-2:] == [f"Figure: {out}", f"Report: {page}"]
    shown = explained(Predictor(load_model(model_folder)), image, [(3, 58), (40, 0)])
    for index, place in enumerate(("(3, 58)", "(40, 0)")):
        for name in shown.effects:
            sentence = shown.sentence(name, index, CLASSES)
            assert f"{place} {sentence}" in printed.out
            assert html.escape(sentence) in page.read_text()
    text = out.read_text()
    assert "(3, 58)" in text
    assert "(40, 0)" in text
    content = page.read_text()
    assert content.count("data:image/png;base64,") == 6
    assert not re.search(r'(src|srcset|href)="(?!data:)', content)
    for name in ("head.position.1", "head.channel.1", "Residual factors", "attention on own class"):
        assert name in content


def test_the_report_has_the_result_of_the_ablation(model_folder, image, tmp_path):
    page = tmp_path / "page.html"
    words = [image, "--model", model_folder, "--at", "3,5", "--out", tmp_path / "a.png"]
    assert explain(*words, "--report", page) == 0
    result = ablate(Predictor(load_model(model_folder)), image, "head.position.1")
    changed = float((result.labels != result.without).float().mean())
    assert f"Without head.position.1, {100 * changed:.1f} % of the pixels" in page.read_text()


def test_the_class_table_uses_the_mask(model_folder, image, tmp_path):
    mask = np.zeros((41, 59), np.uint8)
    mask[:, 30:] = 2
    Image.fromarray(mask).save(tmp_path / "mask.png")
    page = tmp_path / "page.html"
    words = [image, "--model", model_folder, "--at", "3,5", "--out", tmp_path / "a.png"]
    assert explain(*words, "--report", page, "--mask", tmp_path / "mask.png") == 0
    rows = re.search(r"attention on own class</th>(.*?)</table>", page.read_text())[1]
    names = re.findall(r"<tr><td>(\w+)</td><td>([\d.]+) %", rows)
    assert names == [("road", f"{3000 / 59:.1f}"), ("car", f"{2900 / 59:.1f}")]
    assert explain(*words, "--report", page, "--mask", image) == 2


def test_a_block_that_changes_the_shape_is_explained_but_not_switched_off(image, tmp_path):
    randomise(create_model("dranet", classes=CLASSES, backbone="tiny")).save_pretrained(
        tmp_path / "dranet"
    )
    words = [image, "--model", tmp_path / "dranet", "--at", "3,5", "--out", tmp_path / "a.svg"]
    assert explain(*words, "--report", tmp_path / "page.html", "--channels", 2) == 0
    ablated = re.findall(r"Without (\S+),", (tmp_path / "page.html").read_text())
    assert ablated == ["head.position.block", "head.channel.block"]
    assert "head.gate" in (tmp_path / "a.svg").read_text()


def test_the_most_confident_pixel_of_a_class():
    model = create_model("fcn", classes=CLASSES, backbone="tiny")
    labels = torch.tensor([[0, 0, 2], [2, 2, 0]])
    confidence = torch.tensor([[0.9, 0.8, 0.5], [0.7, 0.6, 1.0]])
    prediction = Prediction(labels, confidence)
    assert _most_confident_pixel(prediction, model, "car") == (1, 0)
    assert _most_confident_pixel(prediction, model, "road") == (1, 2)
    with pytest.raises(UserError, match="not predicted in this image; choose from"):
        _most_confident_pixel(prediction, model, "sky")


def test_a_class_by_name(model_folder, image, tmp_path):
    model = load_model(model_folder)
    prediction = Predictor(model)(image)
    name = CLASSES.names[int(prediction.labels[0, 0])]
    out = tmp_path / "a.svg"
    assert explain(image, "--model", model_folder, "--class", name, "--out", out) == 0
    assert str(_most_confident_pixel(prediction, model, name)) in out.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --at ROW,COL or --class NAME"),
        (["--at", "41,0"], "pixel (41, 0) is outside the image of 41 rows and 59 columns"),
        (["--at", "3,-1"], "outside the image"),
        (["--at", "3;5"], "ROW,COL"),
        (["--at", "3,5", "--channels", "-1"], "0 or more"),
        (["--at", "3,5,7"], "ROW,COL"),
        (["--class", "dog"], "unknown class 'dog'; the model has road, sky, car"),
        (["--at", "3,5", "--out", "a.bmp"], ".pdf"),
        (["--at", "3,5", "--model", "no-such-folder"], "no-such-folder"),
    ],
)
def test_bad_words_are_one_sentence_and_exit_2(
    model_folder,
    image,
    tmp_path,
    words,
    message,
    capsys,
):
    start = [image, "--model", model_folder, "--out", tmp_path / "a.png"]
    assert explain(*start, *words) == 2
    stderr = capsys.readouterr().err
    assert message in stderr
    assert stderr.count("scenewise: error:") == 1
    assert not (tmp_path / "a.png").exists()


@pytest.fixture(scope="module")
def fcn_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fcn")
    randomise(create_model("fcn", classes=CLASSES, backbone="tiny")).save_pretrained(folder)
    return folder


def test_a_model_without_attention_is_explained_by_gradients(image, fcn_folder, tmp_path, capsys):
    pytest.importorskip("captum", reason="the extra gradient is not installed")
    out, page = tmp_path / "a.svg", tmp_path / "page.html"
    words = [image, "--model", fcn_folder, "--at", "3,5", "--at", "40,58", "--out", out]
    assert explain(*words, "--report", page) == 0
    first, *sentences, figure, written = capsys.readouterr().out.splitlines()
    assert first == "This model has no attention block; gradients of its scores are shown instead."
    assert (figure, written) == (f"Figure: {out}", f"Report: {page}")
    for place, sentence in zip(("(3, 5)", "(40, 58)"), sentences, strict=True):
        assert sentence.startswith(f'{place} "')
        assert "half of its gradient is within" in sentence
        assert html.escape(sentence) in page.read_text()
    assert "gradient by class" in out.read_text()


def test_the_explanation_is_chosen(image, model_folder, fcn_folder, tmp_path, capsys):
    pytest.importorskip("captum", reason="the extra gradient is not installed")
    out = tmp_path / "a.svg"
    words = [image, "--at", "3,5", "--out", out]
    assert explain(*words, "--model", fcn_folder, "--explain", "attention") == 2
    assert "this model has no attention block" in capsys.readouterr().err
    assert not out.exists()
    assert explain(*words, "--model", model_folder, "--explain", "gradient") == 0
    printed = capsys.readouterr().out
    assert "half of its gradient is within" in printed
    assert "instead" not in printed
    assert explain(*words, "--model", fcn_folder, "--channels", 2) == 2
    assert "--channels and --mask are of attention" in capsys.readouterr().err


def test_gradients_without_their_package_name_the_extra(
    image, fcn_folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.delitem(sys.modules, "captum.attr", raising=False)
    words = [image, "--model", fcn_folder, "--at", "3,5", "--out", tmp_path / "a.png"]
    assert explain(*words) == 2
    assert "pip install 'scenewise[gradient]'" in capsys.readouterr().err


def test_an_unreadable_image_is_reported(model_folder, tmp_path, capsys):
    (tmp_path / "a.png").write_text("not an image")
    words = ["--model", model_folder, "--at", "3,5", "--out", tmp_path / "b.png"]
    assert explain(tmp_path / "a.png", *words) == 2
    assert "cannot read image" in capsys.readouterr().err
    assert explain(tmp_path / "c.png", *words) == 2
    assert "c.png' not found" in capsys.readouterr().err
