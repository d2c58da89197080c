"""``--backend auto``: the fastest runtime of a network on this processor, measured on an image."""

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import get_args

from torch import Tensor

from scenewise.errors import UserError
from scenewise.exports.runtime import Backend
from scenewise.inference.predictor import Predictor

_PACKAGES: dict[Backend, tuple[str, ...]] = {
    "torch": (),
    "onnxruntime": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
}
_AGREEMENT = 0.999  # share of the labels that must be PyTorch's
_SIDE = 512  # pixels of the part of the image that is labelled
_RUNS = 2  # after one to warm up; the faster one counts


def fastest(
    build: Callable[[Backend], Predictor], image: Tensor, report: Callable[[str], object]
) -> Predictor:
    """Of the predictors of all backends, the fastest whose labels are those of PyTorch.

    Args:
        build: the predictor of a backend.
        image: (C, H, W); at most the middle 512 x 512 pixels are labelled.
        report: called with one sentence: what is taken, the times, and what was left out.
    """
    image = _middle(image)
    predictors: dict[Backend, Predictor] = {}
    seconds: dict[Backend, float] = {}
    notes: list[str] = []
    expected: Tensor | None = None
    for backend in get_args(Backend):
        missing = [name for name in _PACKAGES[backend] if find_spec(name) is None]
        if missing:
            notes.append(f"{backend} is not installed")
            continue
        try:
            predictor = build(backend)
            labels, duration = _timed(predictor, image)
        except UserError:
            if backend == "torch":  # the options are wrong
                raise
            notes.append(f"{backend} does not support the network")
            continue
        expected = labels if expected is None else expected
        share = (labels == expected).double().mean().item()
        if share < _AGREEMENT:
            notes.append(f"{backend} left out, as only {share:.2%} of its labels are PyTorch's")
            continue
        predictors[backend], seconds[backend] = predictor, duration
    first, *others = sorted(seconds, key=lambda backend: seconds[backend])
    times = [f"{name} {seconds[name]:.3g} s" for name in others]
    size = f"{image.shape[1]} x {image.shape[2]} pixels"
    start = f"--backend auto takes {first}: {seconds[first]:.3g} s for {size}"
    report("; ".join([start, *times, *notes]))
    return predictors[first]


def _timed(predictor: Predictor, image: Tensor) -> tuple[Tensor, float]:
    labels = predictor(image).labels  # a runtime's first run is slower
    durations = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        predictor(image)
        durations.append(time.perf_counter() - start)
    return labels, min(durations)


def _middle(image: Tensor) -> Tensor:
    top, left = (max(0, side - _SIDE) // 2 for side in image.shape[1:])
    return image[:, top : top + _SIDE, left : left + _SIDE]
