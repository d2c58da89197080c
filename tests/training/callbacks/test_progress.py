"""What a training prints and draws while it runs."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import scenewise
from scenewise.data import SegmentationData
from scenewise.training.callbacks import figures


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory, module_capture: Any) -> tuple[Path, str]:
    """A run folder after 24 steps and 4 validations, and what was printed."""
    data = SegmentationData(
        "scenes", scenes_train=12, scenes_val=5, scenes_size=(32, 64), batch_size=2, num_workers=0
    )
    run = scenewise.fit(
        data,
        network="fcn",
        backbone="tiny",
        max_epochs=4,
        accelerator="cpu",
        enable_progress_bar=True,
        root=tmp_path_factory.mktemp("runs"),
    )
    return run.folder, module_capture()


@pytest.fixture(scope="module")
def module_capture() -> Any:
    """Standard output and error since the fixture was made, as one text."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        yield text.getvalue


def test_one_bar_over_all_steps(printed: tuple[Path, str]) -> None:
    bars = re.findall(r"training: +(\d+)%\|[^|]*\| (\d+)/(\d+)", printed[1])
    assert {total for _, _, total in bars} == {"24"}
    assert bars[-1] == ("100", "24", "24")
    assert "Epoch" not in printed[1]


def test_a_line_for_each_validation_and_what_was_measured(printed: tuple[Path, str]) -> None:
    lines = re.findall(r"epoch (\d), step (\d+): train loss \d\.\d+, mIoU [\d.]+ %(.*)", printed[1])
    assert [(int(epoch), int(step)) for epoch, step, _ in lines] == [
        (e, 6 * e + 6) for e in range(4)
    ]
    assert all(re.match(r", about \d+ \w+ left", rest) for *_, rest in lines[:-1])
    assert not lines[-1][2].strip()
    [measured] = re.findall(r"measured: ([\d.e-]+) s a batch(.*)", printed[1])
    assert 0 < float(measured[0]) < 60


def test_curves_and_samples(printed: tuple[Path, str]) -> None:
    folder = printed[0]
    with Image.open(folder / "curves.png") as curves:
        assert min(curves.size) > 300
    sheet = np.asarray(Image.open(folder / "samples.png"))
    scene = SegmentationData("scenes", scenes_val=5, scenes_size=(32, 64)).dataset("val")
    first = scene.read(0)[0].permute(1, 2, 0).numpy()  # (H, W, 3)
    panel = np.asarray(Image.fromarray(first).resize((360, 180)))
    assert np.abs(sheet[28:208, 8:368].astype(int) - panel).max() <= 1
    [events] = folder.glob("events.*")
    log = EventAccumulator(str(events))
    log.Reload()
    assert log.Images("samples")[-1].step == 24


def test_drawing_takes_a_share_of_the_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A validation is left out while drawing would take over a twentieth; the last is drawn."""
    drawn: list[int] = []
    clock = iter(range(1000))  # each look at the clock is a second later
    monkeypatch.setattr(figures, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(figures, "curves_figure", lambda rows: len(rows))
    monkeypatch.setattr(figures, "save_figure", lambda rows, path: drawn.append(rows))
    data = SegmentationData(
        "scenes", scenes_train=4, scenes_val=1, scenes_size=(32, 64), batch_size=2, num_workers=0
    )
    options = {"max_epochs": 5, "accelerator": "cpu", "enable_progress_bar": False}
    scenewise.fit(data, network="fcn", backbone="tiny", root=tmp_path, **options)
    assert len(drawn) == 2  # the first validation and the last
