"""Several processes write the same files as one; an interrupted run is resumed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scenewise.apps.cli import main
from scenewise.apps.predict import outcome
from scenewise.models import load_model

Run = Callable[..., str]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(7):
        array = np.random.default_rng(number).integers(0, 256, (23, 31 + number, 3), np.uint8)
        Image.fromarray(array).save(tmp_path / "images" / f"{number}.png")
    return tmp_path / "images"


@pytest.fixture
def predict(
    images: Path,
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Predict the images and return the messages."""

    def run(
        out: Path,
        *options: str,
        rank: int | None = None,
        size: int = 1,
        model: Path = model_folder,
        code: int = 0,
    ) -> str:
        for name, value in (("RANK", rank), ("WORLD_SIZE", None if rank is None else size)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, str(value))
        words = ["predict", str(images), "--model", str(model), "--out", str(out)]
        assert main([*words, "--device", "cpu", *options]) == code
        return capsys.readouterr().err

    return run


def contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.parametrize("size", [2, 3])
def test_shares_are_the_whole(tmp_path: Path, predict: Run, size: int) -> None:
    predict(tmp_path / "one")
    for rank in reversed(range(size)):
        message = predict(tmp_path / "some", rank=rank, size=size)
        share = len(range(rank, 7, size))
        assert f"process {rank} of {size}: {share} of {share} images labelled" in message
    assert len(contents(tmp_path / "one")) == 16
    assert contents(tmp_path / "some") == contents(tmp_path / "one")


def test_torchrun_waits_for_all_before_it_reports_a_broken_image(
    tmp_path: Path, predict: Run, images: Path, model_folder: Path
) -> None:
    predict(tmp_path / "one")
    (images / "00.png").write_text("broken")  # the first one of process 0
    words = [str(images), "--model", str(model_folder), "--out", str(tmp_path / "some")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "-m", "scenewise", "predict", *words, "--device", "cpu"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0
    assert "7 of 8 images labelled" in done.stderr
    assert "00.png" in done.stderr
    assert contents(tmp_path / "some") == contents(tmp_path / "one")


def test_a_killed_run_is_resumed(
    tmp_path: Path, predict: Run, images: Path, model_folder: Path
) -> None:
    predict(tmp_path / "one")
    out = tmp_path / "killed"
    words = ["predict", str(images), "--model", str(model_folder), "--out", str(out)]
    slow = (
        "import sys, time; from scenewise.apps import cli\n"
        "from scenewise.apps.predict import image_results as results\n"
        "plain = results.save_labels\n"
        "def save(*args): time.sleep(0.1); plain(*args)\n"
        "results.save_labels = save; cli.main(sys.argv[1:])"
    )
    process = subprocess.Popen([sys.executable, "-c", slow, *words], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (out / "labels" / "1.png").exists() and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = contents(out / "labels")
    assert 2 <= len(before) < 7
    assert before.items() <= contents(tmp_path / "one" / "labels").items()
    finished = f"{7 - len(before)} of 7 images labelled in '{out}', {len(before)} skipped"
    assert finished in predict(out)
    files = contents(out)
    for name in [name for name in files if Path(name).name.startswith(".")]:
        del files[name]  # what a killed process was writing
    assert files == contents(tmp_path / "one")


def test_only_what_changed_is_repeated(
    tmp_path: Path, predict: Run, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    predict(out)
    assert "0 of 7 images labelled" in predict(out)
    assert "7 skipped" in predict(out)
    other = np.random.default_rng(9).integers(0, 256, (23, 33, 3), np.uint8)
    Image.fromarray(other).save(images / "2.png")
    os.utime(images / "4.png", ns=(0, 0))
    (out / "overlays" / "5.jpg").unlink()
    (out / "labels" / "6.png").write_bytes((out / "labels" / "6.png").read_bytes()[:40])
    before = contents(out)
    assert "4 of 7 images labelled" in predict(out)
    after = contents(out)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed >= {"labels/2.png", "labels/4.png", "labels/6.png", "overlays/5.jpg"}
    assert not {name for name in changed if Path(name).stem in ("0", "1", "3")}
    assert "7 of 7 images labelled" in predict(out, "--again")
    assert contents(out) == after


@pytest.mark.parametrize(
    "words", [["--flip"], ["--window", "16"], ["--scales", "0.5"], ["--opacity", "0.25"]]
)
def test_other_options_give_other_records(tmp_path: Path, predict: Run, words: list[str]) -> None:
    out = tmp_path / "out"
    predict(out)
    assert "7 of 7 images labelled" in predict(out, *words)
    assert "7 skipped" in predict(out, *words)
    predict(tmp_path / "new", *words)
    assert contents(out) == contents(tmp_path / "new")


def test_a_missing_result_is_written(tmp_path: Path, predict: Run) -> None:
    out = tmp_path / "out"
    predict(out, "--no-overlay")
    assert "7 skipped" in predict(out, "--no-overlay")
    assert "7 of 7 images labelled" in predict(out)
    assert "7 skipped" in predict(out, "--no-overlay")


def test_another_model_gives_another_record(
    tmp_path: Path, predict: Run, model_folder: Path
) -> None:
    out, copy, changed = tmp_path / "out", tmp_path / "copy", tmp_path / "changed"
    predict(out)
    shutil.copytree(model_folder, copy)
    assert "7 skipped" in predict(out, model=copy)
    model = load_model(model_folder)
    next(model.head.parameters()).data[0] += 1e-3
    model.save_pretrained(changed)
    assert "7 of 7 images labelled" in predict(out, model=changed)


def test_many_broken_images_are_counted(
    tmp_path: Path, predict: Run, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcome, "_MAX_NAMED", 2)
    for number in range(5):
        (images / f"{number}.png").write_text("broken")
    message = " ".join(predict(tmp_path / "out", code=2).split())
    assert "2 of 7 images labelled" in message
    assert "0.png" in message
    assert "1.png" in message
    assert "2.png" not in message
    assert "and 3 more" in message
