import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from scenewise import load_model
from scenewise.apps.cli import main
from tests.models.convert import external_mmseg
from tests.models.convert.compare import random_image
from tests.models.convert.external import Weights


@pytest.fixture(autouse=True)
def _cleared(tmp_path: Path) -> Iterator[None]:
    """Files of 200 MB are deleted after each test."""
    yield
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A random CCNet of mmsegmentation."""
    weights = Weights()
    network = partial(external_mmseg.network, head=external_mmseg.ccnet, classes=2)
    with torch.no_grad():
        network(weights, random_image((33, 41)))
    file = tmp_path_factory.mktemp("convert") / "ccnet_r50-d8_769x769_40k.pth"
    meta = {"CLASSES": ("road", "sky"), "PALETTE": [[1, 2, 3], [4, 5, 6]]}
    torch.save({"meta": meta, "state_dict": weights.tensors}, file)
    yield file
    file.unlink()


def fails(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["convert", *map(str, words)]) == 2
    output = capsys.readouterr()
    assert output.err.count("\n") == 1
    return output.err


def test_there_and_back(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ccnet"
    assert main(["convert", str(checkpoint), str(out), "--recurrence", "3"]) == 0
    output = capsys.readouterr().out
    assert "family   mmseg" in output
    assert "network  ccnet, backbone resnet50c, variant mmseg, output_stride 8" in output
    assert "align_corners true" in output
    assert "recurrence 3" in output
    assert "classes  2: road, sky" in output
    assert "images   RGB, 0 to 255, mean 123.675 116.28 103.53" in output
    assert "tensors  365 loaded, 0 left out" in output
    source = json.loads((out / "config.json").read_text())["source"]
    assert source["file"] == checkpoint.name
    assert source["sha256"] in output
    assert source["options"] == {"recurrence": 3}
    back = tmp_path / "back.pth"
    assert main(["convert", "--to", "mmseg", str(out), str(back)]) == 0
    first, second = (torch.load(f, weights_only=True)["state_dict"] for f in (checkpoint, back))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_dry_run_prints_every_key_and_writes_nothing(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(checkpoint), str(tmp_path / "m"), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  output_stride 8 (file name)" in lines
    assert "  align_corners true (file name)" in lines
    assert "  recurrence 2 (released default)" in lines
    assert "  preprocessing as in the line 'images' (released default)" in lines
    keys = dict(line.split("->") for line in lines if "->" in line)
    keys = {key.strip(): target.strip() for key, target in keys.items()}
    assert len(keys) == 365
    gamma = "head.context.join.branch.block.gamma"
    assert keys["decode_head.cca.gamma.scale"] == gamma
    assert keys["backbone.stem.7.weight"] == "backbone.net.bn1.weight"
    assert not (tmp_path / "m").exists()


def test_options_change_the_model(tmp_path: Path, checkpoint: Path) -> None:
    options = ["--no-align-corners", "--multi-grid", "4", "8", "16", "--output-stride", "16"]
    assert main(["convert", str(checkpoint), str(tmp_path / "m"), *options]) == 0
    model = load_model(tmp_path / "m")
    assert model.align_corners is False
    assert model.recipe["multi_grid"] == [4, 8, 16]
    assert model.recipe["output_stride"] == 16
    assert model.source["options"]["align_corners"] is False


def test_bad_input_is_reported_and_nothing_written(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m"
    assert "no such file" in fails(capsys, tmp_path / "none.pth", out)
    assert "give OUT, or --dry-run" in fails(capsys, checkpoint)
    assert "unknown family 'x'; choose one of" in fails(capsys, checkpoint, out, "--family", "x")
    assert "recurrence is 0" in fails(capsys, checkpoint, out, "--recurrence", 0)
    assert "does not match its danet" in fails(capsys, *partly(checkpoint, tmp_path), out)
    assert "leave the other options out" in fails(capsys, "--to", "danet", "m", out, "--dry-run")
    assert "layout of danet does not support" in fails(capsys, "--to", "danet", checkpoint, out)
    file = tmp_path / "file"
    file.touch()
    assert "is a file; give a folder" in fails(capsys, checkpoint, file)
    assert not out.exists()


def partly(checkpoint: Path, folder: Path) -> list[Path]:
    """The same tensors, under the names of DANet's attention."""
    tensors = torch.load(checkpoint, weights_only=True)["state_dict"]
    file = folder / "part.pth"
    torch.save({k.replace("cca.", "pam."): v for k, v in tensors.items()}, file)
    return [file]
