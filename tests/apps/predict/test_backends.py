"""``--backend auto`` takes the fastest runtime that agrees with PyTorch."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor

from scenewise.apps.predict import backends
from scenewise.apps.predict.backends import fastest
from scenewise.errors import UserError
from scenewise.exports.runtime import Backend
from scenewise.inference.predictor import Prediction, Predictor
from tests.models.optimize.test_fuse import trained

LABELS = torch.zeros(40, 50, dtype=torch.int64)
IMAGE = torch.zeros(3, 40, 50, dtype=torch.uint8)


class Fake:
    """A predictor that takes ``seconds`` of a fake clock, with ``wrong`` pixels of 2000."""

    def __init__(self, clock: list[float], seconds: float, wrong: int = 0) -> None:
        self.clock, self.seconds, self.wrong = clock, seconds, wrong

    def __call__(self, image: Tensor) -> Prediction:
        self.clock[0] += self.seconds
        labels = LABELS.clone()
        labels.view(-1)[: self.wrong] = 1
        return Prediction(labels, torch.ones(labels.shape))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(backends.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(backends, "find_spec", lambda name: object())
    return now


def choose(table: dict[Backend, Fake]) -> tuple[Fake, str]:
    def build(backend: Backend) -> Fake:
        if backend not in table:
            raise UserError("the exporter failed; report it")
        return table[backend]

    notes: list[str] = []
    taken = fastest(build, IMAGE, notes.append)  # type: ignore[arg-type]
    assert len(notes) == 1
    return taken, notes[0]  # type: ignore[return-value]


def test_the_fastest_is_taken_and_the_times_are_said(clock: list[float]) -> None:
    table: dict[Backend, Fake] = {
        "torch": Fake(clock, 2.0),
        "onnxruntime": Fake(clock, 0.5, wrong=2),  # 99.9 % agree
        "openvino": Fake(clock, 1.0),
    }
    taken, note = choose(table)
    assert taken is table["onnxruntime"]
    assert note == (
        "--backend auto takes onnxruntime: 0.5 s for 40 x 50 pixels; openvino 1 s; torch 2 s"
    )


def test_one_that_disagrees_is_left_out(clock: list[float]) -> None:
    table: dict[Backend, Fake] = {
        "torch": Fake(clock, 2.0),
        "openvino": Fake(clock, 1.0, wrong=3),
    }
    taken, note = choose(table)
    assert taken is table["torch"]
    assert "openvino left out, as only 99.85% of its labels are PyTorch's" in note
    assert "onnxruntime does not support the network" in note


def test_missing_packages_are_named(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    taken, note = choose({"torch": Fake(clock, 1.0), "openvino": Fake(clock, 0.1)})
    assert taken.seconds == 1.0
    assert "onnxruntime is not installed; openvino is not installed" in note


def test_wrong_options_are_raised(clock: list[float]) -> None:
    with pytest.raises(UserError, match="exporter"):
        choose({})


def test_real_runtimes_are_converted_and_measured() -> None:
    """Nothing is faked; ONNX Runtime gets another network, so its labels must not be taken."""
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    model = trained("fcn", "tiny")
    image = torch.rand(3, 33, 47, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():  # no class is ahead everywhere
        logits = model(model.normalize(image[None])).logits  # (1, K, H, W)
        model.head.classify[1].bias -= logits.mean((0, 2, 3))
        other = deepcopy(model)
        other.head.classify[1].weight.neg_()
    notes: list[str] = []
    taken = fastest(
        lambda backend: Predictor(other if backend == "onnxruntime" else model, backend=backend),
        image,
        notes.append,
    )
    expected = Predictor(model, fast=False)(image).labels
    assert len(expected.unique()) > 1
    assert (taken(image).labels == expected).double().mean() > 0.999
    (note,) = notes
    assert "onnxruntime left out, as only" in note
    assert " s for 33 x 47 pixels; " in note
    assert ("takes torch" in note and "; openvino " in note) or (
        "takes openvino" in note and "; torch " in note
    )
