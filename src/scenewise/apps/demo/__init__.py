"""``scenewise demo``: real software in a few minutes, without a download.

Trains networks alike on generated scenes, tests them, shows what they predict and attend to.
"""

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from scenewise.apps.demo.experiment import TEST_SCENES, Result, scenes_data, train_on_scenes
from scenewise.data.scenes import Scenes
from scenewise.files import write_json, write_text
from scenewise.inference.predictor import Predictor
from scenewise.models.build import create_model
from scenewise.models.segmenter import Segmenter
from scenewise.visualize import report
from scenewise.visualize.attention_maps import attention_maps
from scenewise.visualize.figure import explain_figure
from scenewise.visualize.overlay import overlay, save_image

ABLATION = ("fcn", "position", "channel", "danet")
EXAMPLES = """\
examples:
  scenewise demo
  scenewise demo --all
  scenewise demo --network ccnet --steps 400 --out ccnet-demo
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``scenewise demo``."""
    parser.epilog = EXAMPLES
    parser.add_argument(
        "--network", default="danet", help="trained beside fcn; scenewise models lists the names"
    )
    parser.add_argument(
        "--all", action="store_true", help=f"the paper's ablation instead: {', '.join(ABLATION)}"
    )
    parser.add_argument("--steps", type=int, default=250, help="of training for each network")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(64, 192), metavar=("H", "W"), help="of the scenes"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, other scenes")
    parser.add_argument("--out", type=Path, default=Path("scenewise-demo"), help="folder to write")


def run(args: argparse.Namespace) -> None:
    """Train, test, predict, explain; write the report and the models."""
    size = (args.size[0], args.size[1])
    networks = ABLATION if args.all else tuple(dict.fromkeys(("fcn", args.network)))
    for network in networks:  # a wrong name is told before the first training
        create_model(network, num_classes=2, backbone="tiny")
    results = []
    for network in networks:
        result = train_on_scenes(network, steps=args.steps, size=size, seed=args.seed)
        result.model.save_pretrained(args.out / network)
        results.append(result)
    _print(results)
    write_json(args.out / "metrics.json", {r.network: _numbers(r) for r in results})
    scenes = scenes_data(args.steps, size, args.seed).dataset("val")
    assert isinstance(scenes, Scenes)
    html = _report(results, scenes, args)
    write_text(args.out / "report.html", html)
    Console().print(
        f"Report: {args.out / 'report.html'}\n"
        f"Try:    scenewise predict {args.out / 'pictures'} --model {args.out / networks[-1]} "
        f"--out {args.out / 'predictions'}",
        soft_wrap=True,
    )


def _numbers(result: Result) -> dict[str, float]:
    return {
        "miou": result.miou,
        "context_iou": result.context_iou,
        "pixel_accuracy": result.accuracy,
        "seconds": result.seconds,
        "parameters": result.parameters,
    }


HEADER = ("network", "mIoU %", "context IoU %", "pixel accuracy %", "parameters", "seconds")


def _row(result: Result) -> tuple[str, ...]:
    scores = (result.miou, result.context_iou, result.accuracy)
    percents = tuple(f"{100 * score:.1f}" for score in scores)
    return (result.network, *percents, f"{result.parameters:,}", f"{result.seconds:.0f}")


def _print(results: Sequence[Result]) -> None:
    grid = Table(title=f"{TEST_SCENES} unseen scenes", title_justify="left")
    for index, name in enumerate(HEADER):
        grid.add_column(name, justify="left" if index == 0 else "right")
    for result in results:
        grid.add_row(*_row(result))
    Console().print(grid)


def _report(results: Sequence[Result], scenes: Scenes, args: argparse.Namespace) -> str:
    names = scenes.classes.names
    far = ", ".join(names[k] for k in Scenes.context_classes)
    parts = [
        report.paragraph(
            f"{len(results)} networks, each trained for {args.steps} steps on the same generated "
            f"scenes, seed {args.seed}, with a backbone that sees 27 x 27 pixels. The classes "
            f"{far} look alike in pairs; only a signal at least a third of the picture away tells "
            "them apart. Context IoU is the mean over these classes."
        ),
        report.table(HEADER, [_row(result) for result in results]),
        report.heading("Training"),
        report.figure(_curves(results), "loss of each step; context IoU at each validation"),
        report.heading("Unseen scenes"),
    ]
    for index in range(4):
        parts.append(_scene(results, scenes, index, args.out))
    parts.append(report.heading("What a pixel attends to"))
    parts += _attention(results, scenes, args.out)
    return report.page("Scenewise: what attention is worth", *parts)


def _scene(results: Sequence[Result], scenes: Scenes, index: int, out: Path) -> str:
    """The scene, its truth, and what each network says."""
    image, mask = scenes.read(index)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    save_image(out / "pictures" / f"{scenes.names[index]}.png", picture)
    figures = [
        report.figure(picture, "picture"),
        report.figure(overlay(image, mask, scenes.classes, opacity=0.8), "truth"),
    ]
    for result in results:
        labels = Predictor(result.model)(image).labels
        right = float((labels == mask).float().mean())
        drawn = overlay(image, labels, scenes.classes, opacity=0.8)
        figures.append(report.figure(drawn, f"{result.network}: {100 * right:.0f} % right"))
    return report.grid(figures)


def _attention(results: Sequence[Result], scenes: Scenes, out: Path) -> list[str]:
    """Figures of one pixel that needs far context, for each network that has attention."""
    found = []
    image, mask = scenes.read(0)
    at = decided_pixel(mask.numpy())
    for result in results:
        if not _attends(result.model):
            continue
        file = out / f"attention_{result.network}.png"
        explain_figure(result.model, image, at=[at], path=file)
        name = scenes.classes.names[int(mask[at])]
        found.append(report.figure(file, f"{result.network}: the marked pixel is of class {name}"))
    return found


def _attends(model: Segmenter) -> bool:
    with attention_maps(model) as maps:
        return bool(maps.positions)


def decided_pixel(mask: NDArray[np.uint8]) -> tuple[int, int]:
    """The middle pixel, in reading order, of those whose class needs far context."""
    rows, columns = np.nonzero(np.isin(mask, Scenes.context_classes))
    middle = len(rows) // 2
    return int(rows[middle]), int(columns[middle])


def _curves(results: Sequence[Result]) -> Image.Image:
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(11, 3.6), layout="constrained")
    loss, context = drawing.subplots(1, 2)
    for result in results:
        loss.plot(*zip(*result.curve.loss, strict=True), label=result.network, linewidth=1)
        points = zip(*result.curve.context_iou, strict=True)
        context.plot(*points, label=result.network, marker="o")
    loss.set(xlabel="step", ylabel="loss (sum over the network's losses)", yscale="log")
    context.set(xlabel="step", ylabel="context IoU", ylim=(0, 1))
    for axes in (loss, context):
        axes.grid(alpha=0.3)
        axes.legend()
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png")
    return Image.open(buffer)
