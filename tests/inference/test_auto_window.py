"""AutoWindowPredictor: where memory is limited, labels are exactly those of the window taken."""

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
def image() -> torch.Tensor:
    return torch.rand(3, 300, 420)


class LimitedMemory:
    """Makes the backbone raise ``error`` for inputs of more than ``pixels`` pixels."""

    def __init__(self, model: Segmenter, pixels: int, error: Exception = ERRORS[0]) -> None:
        self.model, self.pixels, self.error = model, pixels, error
        self.seen: list[tuple[int, int]] = []

    def __enter__(self) -> "LimitedMemory":
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
def test_labels_are_those_of_the_window_taken(model, image, options, error):
    reports = []
    predictor = AutoWindowPredictor(Predictor(model, **options), reports.append)
    with LimitedMemory(model, 256 * 256, error):
        result = predictor(image)
    options = {**options, "window": 256, "blend": "hann"}
    expected = Predictor(model, **options, fast=False)(image)  # the limit is a hook
    assert torch.equal(result.labels, expected.labels)
    assert torch.equal(result.confidence, expected.confidence)
    assert predictor.side == 256
    assert len(reports) == 1
    assert "300 x 420 pixels do not fit into the memory" in reports[0]
    assert "--window 256 --blend hann" in reports[0]


def test_nothing_changes_where_memory_is_enough(model, image):
    predictor = AutoWindowPredictor(Predictor(model), pytest.fail)
    assert torch.equal(predictor(image).labels, Predictor(model)(image).labels)
    assert torch.equal(predictor.scores(image), Predictor(model).scores(image))
    assert predictor.side is None


def test_what_did_not_fit_is_not_tried_again(model, image):
    predictor = AutoWindowPredictor(Predictor(model), lambda sentence: None)
    with LimitedMemory(model, 256 * 256) as limited:
        predictor(image)
        assert (300, 420) in limited.seen
        limited.seen.clear()
        predictor(image)
        assert set(limited.seen) == {(256, 256)}
        limited.seen.clear()
        predictor(image[:, :200, :200])
        assert limited.seen == [(200, 200)]
        assert predictor.side is None


def test_nothing_fits(model, image):
    with LimitedMemory(model, 100), pytest.raises(UserError, match="even in windows of 128 x 128"):
        AutoWindowPredictor(Predictor(model))(image)


def test_a_protocol_keeps_its_windows(model, image):
    predictor = AutoWindowPredictor(Predictor.from_protocol(model, "mmseg_whole"))
    with LimitedMemory(model, 100) as limited, pytest.raises(UserError, match="this protocol"):
        predictor(image)
    assert limited.seen == [(1024, 1434)]


def test_other_errors_are_raised_unchanged(model, image):
    with (
        LimitedMemory(model, 100, RuntimeError("shapes differ")),
        pytest.raises(RuntimeError, match="sha"),
    ):
        AutoWindowPredictor(Predictor(model))(image)


@pytest.mark.parametrize("megabytes", [1, 7, 9, 13, 18, 30])
def test_the_estimate_chooses_the_first_window(model, image, monkeypatch, megabytes):
    """The first try is the largest window whose estimate is below the free memory."""

    def cost(height: int, width: int, scores: int) -> int:
        return estimate(model, (height, width)).activation_bytes + (40 + scores) * 300 * 420

    whole = cost(300, 420, 0)
    costs = {side: cost(min(300, side), min(420, side), 3 * 4) for side in (384, 256, 128)}
    fit = [side for side, cost in costs.items() if cost < megabytes * 1e6]
    side = None if whole < megabytes * 1e6 else max(fit, default=128)
    monkeypatch.setattr(auto_window, "free_bytes", lambda _: megabytes * 1e6 / auto_window._SHARE)
    predictor = AutoWindowPredictor(Predictor(model), lambda sentence: None)
    with LimitedMemory(model, 300 * 420) as limited:
        labels = predictor(image).labels
    assert predictor.side == side
    assert ((300, 420) in limited.seen) == (side is None)
    assert torch.equal(labels, Predictor(model, window=side, blend="hann")(image).labels)


def test_the_smallest_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
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
auto_window.free_bytes = lambda device: None  # else the estimate is enough
used = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 256 * 2**20, resource.RLIM_INFINITY))
sys.exit(main([*words, large]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_a_limit_of_the_address_space(model, tmp_path):
    """An address space of 256 MiB more than is in use: the allocator fails, windows are taken."""
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
    expected = Predictor(model, window=side, blend="hann")(tmp_path / "large.png").labels
    with Image.open(tmp_path / "out" / "labels" / "large.png") as image:
        labels = torch.from_numpy(np.array(image))
        assert f'"window": {side}' in image.info["scenewise"]
        assert '"blend": "hann"' in image.info["scenewise"]
    assert (labels == expected).double().mean() > 0.9999  # folded batch norms round otherwise


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_a_batch_that_does_not_fit_is_not_tried_again(model, error):
    images = torch.rand(4, 3, 40, 56).unbind()
    predictor, calls = AutoWindowPredictor(Predictor(model)), []

    def look(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if not isinstance(inputs[0], FakeTensor):
            calls.append(len(inputs[0]))
            if len(inputs[0]) > 3:
                raise error

    handle = model.backbone.register_forward_pre_hook(look)
    try:
        assert predictor.batch(images) is None
        assert predictor.batch(images) is None
        fitting = predictor.batch(images[:3])
    finally:
        handle.remove()
    assert calls == [4, 3]
    expected = [Predictor(model, fast=False)(image).labels for image in images[:3]]  # a hook
    assert all(torch.equal(a.labels, b) for a, b in zip(fitting, expected, strict=True))


def test_a_batch_is_compared_with_the_free_memory(model, monkeypatch):
    images = torch.rand(4, 3, 40, 56).unbind()
    predictor, one = AutoWindowPredictor(Predictor(model)), 10_000 * 40 * 56  # bytes an image
    monkeypatch.setattr(predictor, "_cost", lambda size: 10_000 * size[0] * size[1])
    monkeypatch.setattr(auto_window, "_PLENTY", 1 << 20)  # so that the cost decides
    monkeypatch.setattr(auto_window, "free_bytes", lambda device: 6 * one)
    assert predictor.batch(images) is not None
    monkeypatch.setattr(auto_window, "free_bytes", lambda device: 4 * one)
    assert predictor.batch(images) is None
    assert predictor.batch(images[:2]) is not None
