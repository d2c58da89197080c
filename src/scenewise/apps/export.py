"""``scenewise export``: write models in the formats of other runtimes."""

import argparse

from rich.console import Console

from scenewise.exports.export import Export, check_target, export_model
from scenewise.exports.hub import push_to_hub
from scenewise.models.checkpoints import load_model


def run(args: argparse.Namespace) -> None:
    """Write, compare and report; upload if asked to."""
    check_target(args.file, args.postprocess, args.opset)
    model = load_model(args.model)
    with Console(stderr=True).status(f"writing {args.file}, and running it on two sizes"):
        export = export_model(model, args.file, args.postprocess, args.opset)
    print(_summary(export))
    if args.push_to_hub is not None:
        print(f"uploaded: {push_to_hub(export, model, args.push_to_hub)}")


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
