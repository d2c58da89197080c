"""``scenewise export``: write models in the formats of other runtimes."""

import argparse
import io
from pathlib import Path

from rich.console import Console

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
    check_target(args.file, args.postprocess, args.opset)
    about = _about(args)  # wrong options before anything is written
    model = load_model(args.model)
    drawn = None if args.overlay is None else _overlay(model, args.overlay)
    with Console(stderr=True).status(f"writing {args.file}, and running it on two sizes"):
        export = export_model(model, args.file, args.postprocess, args.opset)
    print(_summary(export))
    if about is not None:
        address = push_to_hub(
            export, model, args.push_to_hub, about, overlay=drawn, private=args.private
        )
        print(f"uploaded: {address}")


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
    labels = Predictor(model)(image).labels
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
        "written": [str(file) for file in export.files],
    }
    return "\n".join(f"{name:10}{text}" for name, texts in lines.items() for text in texts)
