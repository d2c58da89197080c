"""Where memory is short, windows are taken, and the labels are exactly those of the windows."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensor

from scenewise import Predictor, memory
from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.inference import auto_window
from scenewise.inference.auto_window import AutoWindowPredictor
from scenewise.models import Segmenter
from scenewise.models.cost import estimate
from tests.toy_model import random_danet

ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    MemoryError(),
)


@pytest.fixture(scope="module")
def model() -> Segmenter:
    return random_danet(Classes.numbered(3))


@pytest.fixture
def picture() -> torch.Tensor:
    return torch.rand(3, 300, 420)


class Short:
    """The network's backbone, with memory for so many pixels."""

    def __init__(self, model: Segmenter, pixels: int, error: Exception = ERRORS[0]) -> None:
        self.model, self.pixels, self.error = model, pixels, error
        self.seen: list[tuple[int, int]] = []

    def __enter__(self) -> "Short":
        self.handle = self.model.backbone.register_forward_pre_hook(self.look)
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()

    def look(self, module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if isinstance(inputs[0], FakeTensor):  # an estimate
            return
        size = inputs[0].shape[-2:]
        self.seen.append((size[0], size[1]))
        if size[0] * size[1] > self.pixels:
            raise self.error


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    "options", [{}, {"flip": True, "scales": (0.5, 1.0)}, {"merge": "logits"}, {"window": 400}]
)
def test_labels_are_those_of_the_windows(model, picture, options, error):
    told = []
    fitting = AutoWindowPredictor(Predictor(model, **options), told.append)
    with Short(model, 256 * 256, error):
        found = fitting(picture)
    expected = Predictor(model, **{**options, "window": 256})(picture)
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.confidence, expected.confidence)
    assert fitting.side == 256
    assert len(told) == 1
    assert "300 x 420 pixels do not fit into the memory" in told[0]
    assert "--window 256" in told[0]


def test_nothing_changes_where_memory_is_enough(model, picture):
    fitting = AutoWindowPredictor(Predictor(model), pytest.fail)
    assert torch.equal(fitting(picture).labels, Predictor(model)(picture).labels)
    assert torch.equal(fitting.scores(picture), Predictor(model).scores(picture))
    assert fitting.side is None


def test_what_did_not_fit_is_not_tried_again(model, picture):
    fitting = AutoWindowPredictor(Predictor(model), lambda sentence: None)
    with Short(model, 256 * 256) as short:
        fitting(picture)
        assert (300, 420) in short.seen
        short.seen.clear()
        fitting(picture)
        assert set(short.seen) == {(256, 256)}
        short.seen.clear()
        fitting(picture[:, :200, :200])
        assert short.seen == [(200, 200)]
        assert fitting.side is None


def test_nothing_fits(model, picture):
    with Short(model, 100), pytest.raises(UserError, match="even in windows of 128 x 128"):
        AutoWindowPredictor(Predictor(model))(picture)


def test_a_protocol_keeps_its_windows(model, picture):
    fitting = AutoWindowPredictor(Predictor.from_protocol(model, "mmseg_whole"))
    with Short(model, 100) as short, pytest.raises(UserError, match="this protocol"):
        fitting(picture)
    assert short.seen == [(1024, 1434)]


def test_other_errors_stay_what_they_are(model, picture):
    with Short(model, 100, RuntimeError("shapes differ")), pytest.raises(RuntimeError, match="sha"):
        AutoWindowPredictor(Predictor(model))(picture)


@pytest.mark.parametrize("megabytes", [1, 7, 9, 13, 18, 30])
def test_the_estimate_is_asked_before_the_memory(model, picture, monkeypatch, megabytes):
    """The largest window whose cost is below what is free, at once."""

    def cost(height: int, width: int, scores: int) -> int:
        return estimate(model, (height, width)).activation_bytes + (40 + scores) * 300 * 420

    whole = cost(300, 420, 0)
    costs = {side: cost(min(300, side), min(420, side), 3 * 4) for side in (384, 256, 128)}
    fit = [side for side, found in costs.items() if found < megabytes * 1e6]
    side = None if whole < megabytes * 1e6 else max(fit, default=128)
    monkeypatch.setattr(auto_window, "free_bytes", lambda _: megabytes * 1e6 / auto_window.SHARE)
    fitting = AutoWindowPredictor(Predictor(model), lambda sentence: None)
    with Short(model, 300 * 420) as short:
        labels = fitting(picture).labels
    assert fitting.side == side
    assert ((300, 420) in short.seen) == (side is None)
    assert torch.equal(labels, Predictor(model, window=side)(picture).labels)


def test_the_least_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    free = memory.free_bytes(torch.device("cpu"))
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert (memory.free_bytes(torch.device("cpu")) is None) == (free is None)
    (tmp_path / "memory.max").write_text("5000\n")
    assert memory.free_bytes(torch.device("cpu")) == 4000


LIMITED = """
import re, resource, sys, torch
from pathlib import Path
from scenewise.inference import auto_window
from scenewise.apps.cli import main
torch.set_num_threads(1)
small, large, model, out = sys.argv[1:]
words = ["predict", "--model", model, "--out", out, "--device", "cpu"]
assert main([*words, small]) == 0  # everything is loaded now
auto_window.free_bytes = lambda device: None  # the estimate would know
used = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20, resource.RLIM_INFINITY))
sys.exit(main([*words, large]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_a_real_limit(model, tmp_path):
    """An address space of 200 MiB more than is in use: the allocator refuses, windows are taken."""
    model.save_pretrained(tmp_path / "model")
    size = {"small": (80, 64), "large": (2000, 1400)}
    for name, sides in size.items():
        Image.effect_noise(sides, 80).convert("RGB").save(tmp_path / f"{name}.png")
    words = [str(tmp_path / name) for name in ("small.png", "large.png", "model", "out")]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "1400 x 2000 pixels do not fit into the memory" in done.stderr
    side = int(done.stderr.partition("--window ")[2].split()[0])
    expected = Predictor(model, window=side)(tmp_path / "large.png").labels
    with Image.open(tmp_path / "out" / "labels" / "large.png") as found:
        labels = torch.from_numpy(np.array(found))
        assert f'"window": {side}' in found.info["scenewise"]
    assert (labels == expected).double().mean() > 0.9999  # folded batch norms round otherwise
