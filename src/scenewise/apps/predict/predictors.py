"""The model and the predictor that the options of ``scenewise predict`` ask for."""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scenewise.apps.predict.backends import fastest
from scenewise.apps.predict.manifest import Record, model_record
from scenewise.apps.predict.score_files import score_record
from scenewise.apps.predict.thresholds import parse_thresholds
from scenewise.errors import UserError
from scenewise.exports.runtime import Backend, is_exported, load_exported
from scenewise.inference.devices import best_device
from scenewise.inference.predictor import Predictor
from scenewise.inference.quality import quality_predictor
from scenewise.inference.sliding_window import Size
from scenewise.models.checkpoints import load_model
from scenewise.models.segmenter import Segmenter

_SET_BY_PROTOCOL = ("scales", "flip", "window", "stride", "merge", "blend")
_SET_BY_QUALITY = ("scales", "flip", "blend", "protocol")
# Options that change the content of a result; its record holds them.
_RECORDED = (
    *_SET_BY_PROTOCOL,
    "protocol",
    "quality",
    "backend",
    "opacity",
    "temporal",
    "ema_decay",
    "sure",
)


def load(args: argparse.Namespace) -> tuple[Segmenter, Record]:
    """The model, and the part of the record that all its results share.

    Raises:
        UserError: options that exclude each other, wrong thresholds, or not a model.
    """
    exported = is_exported(args.model)
    _check_options(args, _torch_runs(args))
    model = load_exported(args.model) if exported else load_model(args.model)
    options = {name: getattr(args, name) for name in _RECORDED}
    if thresholds := parse_thresholds(args.threshold, model):
        options["threshold"] = thresholds  # results without one are those of earlier versions
    scores = score_record(args, model.classes)
    return model, {**model_record(model, args.model, options), **scores}


def predictor_of(
    model: Segmenter,
    args: argparse.Namespace,
    image: Tensor | None = None,
    report: Callable[[str], object] = lambda sentence: None,
) -> Predictor:
    """The predictor of a loaded model, which is moved to the device.

    Args:
        model: see :func:`load`.
        args: the options of the command.
        image: what ``--backend auto`` measures on; None takes PyTorch.
        report: called with one sentence about that.

    Raises:
        UserError: a device that is not available, an unknown protocol, or wrong windows.
    """
    device = best_device(args.device if _torch_runs(args) else "cpu")
    model.to(device)
    if args.backend == "auto" and device.type == "cpu" and image is not None:
        return fastest(lambda backend: _predictor(model, args, device, backend), image, report)
    predictor = _predictor(model, args, device, "torch" if args.backend == "auto" else args.backend)
    if args.compile:  # setattr, because a type checker refuses to assign a method
        network = predictor.network
        setattr(network, "low_res", torch.compile(network.low_res, dynamic=True))  # noqa: B010
    return predictor


def _predictor(
    model: Segmenter, args: argparse.Namespace, device: torch.device, backend: Backend
) -> Predictor:
    thresholds = parse_thresholds(args.threshold, model)
    if args.protocol is not None:
        return Predictor.from_protocol(model, args.protocol, device, backend, thresholds)
    options: dict[str, Any] = {
        "window": _size(args.window, "--window"),
        "stride": _size(args.stride, "--stride"),
        "merge": args.merge or "softmax",
        "device": device,
        "backend": backend,
        "thresholds": thresholds,
    }
    if args.quality is not None:
        return quality_predictor(model, args.quality, **options)
    options |= {"scales": args.scales or (1.0,), "flip": args.flip, "blend": args.blend or "even"}
    return Predictor(model, **options)


def _torch_runs(args: argparse.Namespace) -> bool:
    return args.backend in ("torch", "auto") and not is_exported(args.model)


def _check_options(args: argparse.Namespace, torch_runs: bool) -> None:
    """Raise a UserError for options that exclude each other."""
    if not torch_runs and args.device not in (None, "cpu"):
        raise UserError(f"--device {args.device} is for --backend torch; leave one of the two out")
    if not torch_runs and args.compile:
        raise UserError("--compile is for --backend torch; leave one of the two out")
    if args.backend == "auto" and (args.compile or is_exported(args.model)):
        reason = "--compile is for PyTorch" if args.compile else "an exported file has its runtime"
        raise UserError(f"--backend auto chooses among runtimes, and {reason}; leave one out")
    for option in _SET_BY_PROTOCOL:
        if args.protocol is not None and getattr(args, option):
            raise UserError(f"--protocol sets --{option} itself; leave one of the two out")
    for option in _SET_BY_QUALITY:
        if args.quality is not None and getattr(args, option):
            raise UserError(f"--quality sets --{option} itself; leave one of the two out")


def _size(sides: list[int] | None, option: str) -> int | Size | None:
    if sides is None or len(sides) == 1:
        return sides[0] if sides else None
    if len(sides) != 2:
        raise UserError(f"{option} takes a side, or a height and a width, not {len(sides)} numbers")
    return sides[0], sides[1]
