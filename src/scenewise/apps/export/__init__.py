"""``scenewise export``: write models in the formats of other runtimes."""

import argparse
import io
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from scenewise.apps.export.gate import gate_of
from scenewise.data.images import read_image
from scenewise.errors import UserError
from scenewise.exports.export import Export, check_target, export_model
from scenewise.exports.hub import push_to_hub
from scenewise.files import parse_json
from scenewise.inference.predictor import Predictor, display, layout_of
from scenewise.models.card import About
from scenewise.models.checkpoints import load_model
from scenewise.models.segmenter import Segmenter
from scenewise.visualize.overlay import overlay


def run(args: argparse.Namespace) -> None:
    """Write, compare and report; upload if asked to."""
    size = None if args.size is None else (args.size[0], args.size[1])
    check_target(args.file, args.postprocess, args.opset, size, args.precision)
    _check_gate(args)
    about = _about(args)  # wrong options before anything is written
    model = load_model(args.model)
    drawn = None if args.overlay is None else _overlay(model, args.overlay)
    lower = args.precision != "fp32"  # has progress bars of its own
    gate = gate_of(args, model) if lower else None
    doing = Console(stderr=True).status(f"writing {args.file}, and running it in its runtime")
    with nullcontext() if lower else doing:
        export = export_model(
            model,
            args.file,
            args.postprocess,
            args.opset,
            size=size,
            precision=args.precision,
            gate=gate,
        )
    print(_summary(export))
    if about is not None:
        address = push_to_hub(
            export, model, args.push_to_hub, about, overlay=drawn, private=args.private
        )
        print(f"uploaded: {address}")


def _check_gate(args: argparse.Namespace) -> None:
    """Raise a UserError for options of a precision that is not lowered."""
    for option in ("data", "calibrate"):
        if args.precision == "fp32" and getattr(args, option) is not None:
            raise UserError(f"--{option} is for --precision fp16 or int8; give both, or neither")
    if args.precision == "fp16" and args.calibrate is not None:
        raise UserError("--calibrate is for --precision int8; fp16 has no ranges to measure")
    if not 0 <= args.max_drop <= 100:
        raise UserError(f"--max-drop {args.max_drop} is not a number of points from 0 to 100")


def _about(args: argparse.Namespace) -> About | None:
    """What the options say for the model card; None without ``--push-to-hub``."""
    if args.push_to_hub is None:
        for option in ("licence", "metrics", "dataset", "overlay", "private"):
            if getattr(args, option):
                raise UserError(f"--{option} is for --push-to-hub NAME; give both, or neither")
        return None
    if args.licence is None:
        raise UserError(
            "an upload needs the licence of the model; give --licence with its identifier on the "
            "hub, for example apache-2.0, cc-by-4.0 or other"
        )
    file = args.metrics or Path(args.model) / "metrics.json"
    if args.metrics is None and not file.is_file():
        return About(args.licence, args.dataset, None, args.overlay is not None)
    try:
        metrics = parse_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"the scores in '{file}' cannot be read: {error}; give another") from error
    if not isinstance(metrics, dict):
        raise UserError(f"'{file}' holds no scores; give a metrics.json of validate or test")
    return About(args.licence, args.dataset, metrics, args.overlay is not None)


def _overlay(model: Segmenter, file: Path) -> bytes:
    """The image blended with its labels, as PNG."""
    image = read_image(file, layout_of(model))
    labels = Predictor(model, fast=False)(image).labels
    buffer = io.BytesIO()
    overlay(display(image, model), labels, model.classes).save(buffer, "PNG")
    return buffer.getvalue()


def _summary(export: Export) -> str:
    """Input, output, differences from the model, and the files."""
    metadata = export.metadata
    names = [name for name in ("input", "output", "opset", "attention") if name in metadata]
    lines: dict[str, list[str]] = {
        **{name: [metadata[name]] for name in names},
        "compared": [str(difference) for difference in export.differences],
        "score": [] if export.scores is None else [str(export.scores)],
        "int8": _layers(export.layers),
        "written": [str(file) for file in export.files],
    }
    return "\n".join(f"{name:10}{text}" for name, texts in lines.items() for text in texts)


def _layers(layers: dict[str, bool]) -> list[str]:
    """How many layers are in int8, and the names of the others.

    >>> _layers({"head.conv": True, "head.classify": False})
    ['1 of 2 layers; in float: head.classify']
    """
    if not layers:
        return []
    kept = [name for name, low in layers.items() if not low]
    names = f"; in float: {', '.join(kept)}" if kept else ""
    return [f"{len(layers) - len(kept)} of {len(layers)} layers{names}"]
