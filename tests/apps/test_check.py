import json
import re

import numpy as np
import pytest
from PIL import Image

from scenewise.apps.cli import main
from scenewise.data import FolderDataset
from scenewise.data.formats.camvid import _RAW_CLASSES, CamVid, CamVid32
from tests.data.doctor.test_doctor import folder
from tests.data.formats.own_trees import own_tree
from tests.data.formats.trees import ids, write_colors, write_image, write_label, write_mat
from tests.shared_data import shared


def test_a_good_dataset_exits_with_0(tmp_path, capsys):
    folder(tmp_path)
    sheet = tmp_path / "sheet.png"
    assert main(["check", str(tmp_path), "--format", "folder", "--out", str(sheet)]) == 0
    out = capsys.readouterr().out
    assert "train: 3 of 3 images usable, 5 x 7, 22.9% of the pixels ignored" in out
    assert "fit to train on (errors: 0, notes: 0)" in out
    with Image.open(sheet) as image:
        assert image.format == "PNG"


def test_a_bad_dataset_exits_with_1_and_lists_files(tmp_path, capsys):
    folder(tmp_path, classes=2, values=[0, 1, 7])
    assert main(["check", str(tmp_path), "--format", "folder", "--split", "train"]) == 1
    out = capsys.readouterr().out
    assert "3 masks with ids outside the 2 classes: 7 (33 pixels in 3)" in out
    assert f"{tmp_path}/masks/train/0.png" in out
    assert "not fit to train on (errors: 1" in out


def test_the_options_that_a_refusal_names_are_taken_as_they_are(tmp_path, capsys):
    own_tree(tmp_path, ("disc", "box"), count=3)
    assert main(["check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "ERROR all: the masks can be read in 3 ways" in out
    option = re.findall(r"--data\.labels \S+", out)[1].split()
    assert main(["check", str(tmp_path), *option]) == 0
    out = capsys.readouterr().out
    assert "3 classes from classes.json: background, disc, box (0 = background, 1 = disc," in out
    assert main(["prepare", str(tmp_path), *option, "--out", str(tmp_path / "out")]) == 0
    assert main(["check", str(tmp_path / "out")]) == 0
    assert "3 classes from classes.json: background, disc, box; images" in capsys.readouterr().out


def test_json_and_nothing_but_json(tmp_path, capsys):
    folder(tmp_path, classes=2, values=[0, 1, 7])
    assert main(["check", str(tmp_path), "--format", "folder", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert report["format"] == "folder"
    assert {finding["kind"] for finding in report["findings"]} == {"wrong ids"}
    assert report["splits"]["val"]["images"] == 3


def test_a_wrong_root_is_reported_like_anything_else(tmp_path, capsys):
    assert main(["check", str(tmp_path / "none"), "--format", "voc"]) == 1
    assert "that folder does not exist" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["--format", "vok"], ["--labels", "x"], ["--format", "folder", "--workers", "0"]]
)
def test_wrong_arguments_are_one_sentence(tmp_path, capsys, words):
    assert main(["check", str(tmp_path), *words]) == 2
    assert capsys.readouterr().err.startswith("scenewise: error: ")


def test_real_images(capsys):
    root = shared("camvid")
    assert main(["check", str(root), "--format", "folder", "--split", "val"]) == 0
    assert "101 of 101 images usable, 360 x 480, 1.7% of" in capsys.readouterr().out


def camvid(root):
    colors = dict(enumerate(_RAW_CLASSES.colors)) | {255: (0, 0, 0)}
    for split in ("train", "val"):
        for k in range(3):
            write_image(root / split / f"{k}.png", seed=k)
            write_colors(root / f"{split}_labels" / f"{k}_L.png", ids([0, k, 21, 255]), colors)
    return root


@pytest.mark.parametrize(("name", "kind"), [("camvid", CamVid), ("camvid_32", CamVid32)])
def test_a_prepared_dataset_is_the_same_dataset(tmp_path, capsys, name, kind):
    root, out = camvid(tmp_path / "raw"), tmp_path / "out"
    before = {path: path.read_bytes() for path in root.rglob("*.png")}
    assert main(["prepare", name, str(root), "--out", str(out)]) == 0
    assert "--data.format folder" in capsys.readouterr().out
    for split in ("train", "val"):
        original, prepared = kind(root, split), FolderDataset(out, split)
        assert prepared.classes == original.classes
        assert prepared.names == original.names
        for k in range(3):
            for a, b in zip(original.read(k), prepared.read(k), strict=True):
                assert np.array_equal(a.numpy(), b.numpy())
    assert {path: path.read_bytes() for path in root.rglob("*.png")} == before
    with Image.open(out / "masks/train/0.png") as mask:
        assert mask.mode == "P"


def test_preparing_resumes_after_an_error(tmp_path, capsys):
    root, out = camvid(tmp_path / "raw"), tmp_path / "out"
    broken = root / "val_labels/1_L.png"
    good = broken.read_bytes()
    broken.write_bytes(b"")
    assert main(["prepare", "camvid", str(root), "--out", str(out), "--workers", "1"]) == 2
    assert "val_labels/1_L.png" in capsys.readouterr().err
    done = {path: path.stat().st_mtime_ns for path in out.rglob("masks/*/*.png")}
    assert len(done) in (4, 5)
    broken.write_bytes(good)
    assert main(["prepare", "camvid", str(root), "--out", str(out)]) == 0
    assert len([*out.rglob("masks/*/*.png")]) == 6
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert main(["prepare", "camvid_32", str(root), "--out", str(out)]) == 2
    assert "already holds a dataset of other classes" in capsys.readouterr().err


def test_without_links_images_are_copied(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("links are not supported")

    monkeypatch.setattr("pathlib.Path.symlink_to", fail)
    root = camvid(tmp_path / "raw")
    assert main(["prepare", "camvid", str(root)]) == 0
    copied = root / "prepared_camvid/images/train/2.png"
    assert not copied.is_symlink()
    assert copied.read_bytes() == (root / "train/2.png").read_bytes()


def test_matlab_files_are_prepared(tmp_path):
    pytest.importorskip("scipy")
    (tmp_path / "imageLists").mkdir()
    (tmp_path / "imageLists/train.txt").write_text("a\n")
    write_image(tmp_path / "images/a.jpg")
    write_mat(tmp_path / "annotations/a.mat", S=ids([0, 1, 182]).astype(np.uint8))
    assert main(["prepare", "coco_stuff", str(tmp_path), "--split", "train"]) == 0
    prepared = FolderDataset(tmp_path / "prepared_coco_stuff", "train")
    assert prepared.read(0)[1].tolist() == ids([255, 0, 170]).tolist()
    assert len(prepared.classes) == 171


def test_masks_of_the_folder_format_are_unchanged(tmp_path):
    write_label(folder(tmp_path / "raw") / "masks/train/0.png", ids([2]))
    assert main(["prepare", "folder", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]) == 0
    assert FolderDataset(tmp_path / "out").read(0)[1].unique().tolist() == [2]
