"""``scenewise demo``: train, test and explain networks on generated scenes, without a download."""

import argparse
import io
import shlex
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from scenewise.apps.demo.experiment import TEST_SCENES, Result, scenes_data, train_on_scenes
from scenewise.apps.options.demo import ABLATION
from scenewise.data.scenes import Scenes
from scenewise.files import write_json, write_text
from scenewise.inference.predictor import Predictor
from scenewise.models.build import create_model
from scenewise.models.segmenter import Segmenter
from scenewise.visualize import report
from scenewise.visualize.attention_maps import attention_maps
from scenewise.visualize.figure import explain_figure
from scenewise.visualize.overlay import overlay, save_image


def run(args: argparse.Namespace) -> None:
    """Train, test, predict, explain; write the report and the models."""
    size = (args.size[0], args.size[1])
    networks = ABLATION if args.all else tuple(dict.fromkeys(("fcn", args.network)))
    for network in networks:  # a wrong name fails before the first training
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
    at = _pixel_of_context(scenes.read(0)[1].numpy())
    write_text(args.out / "report.html", _report(results, scenes, args, at))
    print(f"Report: {args.out / 'report.html'}", "Now try, in this shell:", sep="\n")
    for command in _next_commands(args.out, results[-1], at):
        print(f"  {command}")


def _next_commands(out: Path, result: Result, at: tuple[int, int]) -> list[str]:
    """Commands to continue with, as they must be typed in the shell that started this one."""
    image, model = min((out / "images").iterdir()), out / result.network
    commands = [["predict", out / "images", "--model", model, "--out", out / "predictions"]]
    if _attends(result.model):
        pixel = ["--at", f"{at[0]},{at[1]}"]
        commands.append(["explain", image, "--model", model, *pixel, "--out", out / "why.png"])
    if find_spec("gradio"):  # the extra "app", which the demo does not need
        commands.append(["app", "--model", model])
    return [f"{_this_program()} {shlex.join(map(str, words))}" for words in commands]


def _this_program() -> str:
    """``scenewise`` where the shell finds it, else the path or the module that was started.

    >>> _this_program()
    '... -m scenewise'
    """
    program = Path(sys.argv[0])
    if program.stem != "scenewise":  # python -m scenewise
        python, here = Path(sys.executable), Path.cwd()
        python = python.relative_to(here) if python.is_relative_to(here) else python
        return f"{shlex.quote(str(python))} -m scenewise"
    on_path = shutil.which(program.name)
    if on_path is not None and program.exists() and program.samefile(on_path):
        return program.name
    return shlex.quote(str(program))


def _numbers(result: Result) -> dict[str, float]:
    return {
        "miou": result.miou,
        "context_iou": result.context_iou,
        "pixel_accuracy": result.accuracy,
        "seconds": result.seconds,
        "parameters": result.parameters,
    }


_HEADER = ("network", "mIoU %", "context IoU %", "pixel accuracy %", "parameters", "seconds")


def _row(result: Result) -> tuple[str, ...]:
    scores = (result.miou, result.context_iou, result.accuracy)
    percents = tuple(f"{100 * score:.1f}" for score in scores)
    return (result.network, *percents, f"{result.parameters:,}", f"{result.seconds:.0f}")


def _print(results: Sequence[Result]) -> None:
    grid = Table(title=f"{TEST_SCENES} unseen scenes", title_justify="left")
    for index, name in enumerate(_HEADER):
        grid.add_column(name, justify="left" if index == 0 else "right")
    for result in results:
        grid.add_row(*_row(result))
    Console().print(grid)


def _report(
    results: Sequence[Result], scenes: Scenes, args: argparse.Namespace, at: tuple[int, int]
) -> str:
    names = scenes.classes.names
    far = ", ".join(names[k] for k in Scenes.context_classes)
    parts = [
        report.paragraph(
            f"{len(results)} networks, each trained for {args.steps} steps on the same generated "
            f"scenes, seed {args.seed}, with a backbone that sees 27 x 27 pixels. The classes "
            f"{far} look alike in pairs; only a signal at least a third of the image away "
            "distinguishes them. Context IoU is the mean over these classes."
        ),
        report.table(_HEADER, [_row(result) for result in results]),
        report.heading("Training"),
        report.figure(_curves(results), "loss of each step; context IoU at each validation"),
        report.heading("Unseen scenes"),
    ]
    for index in range(4):
        parts.append(_scene(results, scenes, index, args.out))
    parts.append(report.heading("What a pixel attends to"))
    parts += _attention(results, scenes, args.out, at)
    return report.page("Scenewise: what attention is worth", *parts)


def _scene(results: Sequence[Result], scenes: Scenes, index: int, out: Path) -> str:
    """The scene, its truth, and the labels of each network."""
    image, mask = scenes.read(index)
    pixels = Image.fromarray(image.permute(1, 2, 0).numpy())  # (H, W, 3)
    save_image(out / "images" / f"{scenes.names[index]}.png", pixels)
    figures = [
        report.figure(pixels, "image"),
        report.figure(overlay(image, mask, scenes.classes, opacity=0.8), "truth"),
    ]
    for result in results:
        labels = Predictor(result.model)(image).labels
        correct = float((labels == mask).float().mean())
        drawn = overlay(image, labels, scenes.classes, opacity=0.8)
        figures.append(report.figure(drawn, f"{result.network}: {100 * correct:.0f} % correct"))
    return report.grid(figures)


def _attention(
    results: Sequence[Result], scenes: Scenes, out: Path, at: tuple[int, int]
) -> list[str]:
    """Figures of one pixel that needs far context, for each network that has attention."""
    figures = []
    image, mask = scenes.read(0)
    for result in results:
        if not _attends(result.model):
            continue
        file = out / f"attention_{result.network}.png"
        explain_figure(result.model, image, at=[at], path=file)
        name = scenes.classes.names[int(mask[at])]
        caption = f"{result.network}: the marked pixel is of class {name}"
        figures.append(report.figure(file, caption))
    return figures


def _attends(model: Segmenter) -> bool:
    with attention_maps(model) as maps:
        return bool(maps.positions)


def _pixel_of_context(mask: NDArray[np.uint8]) -> tuple[int, int]:
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
