"""The report of ``scenewise demo``: scores, scenes with errors, and what attention decides."""

import argparse
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from scenewise.apps.demo.decided import SCENES, Example
from scenewise.apps.demo.experiment import Result
from scenewise.data.scenes import Scenes
from scenewise.inference.predictor import Predictor
from scenewise.visualize import report
from scenewise.visualize.figure import explain_figure
from scenewise.visualize.overlay import hatched, overlay, save_image, zoomed
from scenewise.visualize.panels import PHONE

HEADER = ("network", "mIoU %", "context IoU %", "pixel accuracy %", "parameters", "seconds")
_WIDTH = 576  # pixels, at least, of an image in the report


def row(result: Result) -> tuple[str, ...]:
    """The scores of a network, under ``HEADER``."""
    scores = (result.miou, result.context_iou, result.accuracy)
    percents = tuple(f"{100 * score:.1f}" for score in scores)
    return (result.network, *percents, f"{result.parameters:,}", f"{result.seconds:.0f}")


def demo_report(
    results: Sequence[Result],
    scenes: Scenes,
    examples: Mapping[str, Example],
    args: argparse.Namespace,
) -> str:
    """The page; scenes and figures are also written to the folder ``args.out``.

    Args:
        results: the trained networks.
        scenes: that no network was trained on.
        examples: a pixel for each network with attention over pixels.
        args: of the command.
    """
    parts = [
        *_introduction(results, scenes, args),
        report.heading("Unseen scenes"),
        report.paragraph("Hatched pixels are wrong. The classes and their colours:"),
        report.legend(zip(scenes.classes.names, scenes.classes.colors, strict=True)),
    ]
    for index in range(SCENES):
        parts.append(_scene(results, scenes, index, args.out))
    parts += [report.heading("What a pixel attends to, and whether it matters"), _READING]
    for result in results:
        if result.network in examples:
            parts.append(_attention(result, scenes, args.out, examples[result.network]))
    parts += [
        report.heading("Training"),
        report.figure(_curves(results), "loss of each step; context IoU at each validation"),
    ]
    return report.page("Scenewise: what attention is worth", *parts)


_READING = report.paragraph(
    "Position attention lets each pixel collect features from all others: it compares itself to "
    "every pixel, and takes most from those that are similar in the sense that training found "
    "useful. The map shows from where the marked pixel collects: bright and inside the lines, more "
    "than on average; dark, less. A map alone does not show that the block matters. Therefore the "
    "network predicts the pixel once more with the block switched off, and the text above the map "
    "says what changes. The marked pixel is one that changes, if there is any in these scenes."
)


def _introduction(
    results: Sequence[Result], scenes: Scenes, args: argparse.Namespace
) -> tuple[str, ...]:
    names = scenes.classes.names
    (taxi, ambulance), (opened, closed) = [[names[k] for k in p] for p in Scenes.context_pairs]
    return (
        report.paragraph(
            f"In these generated streets a {taxi} looks exactly like an {ambulance}, and an "
            f"{opened} like a {closed}. Only the colour of a round signal, at least a third of the "
            "image away, says which it is. The backbone of these networks sees 27 x 27 pixels, so "
            "a network without attention can only guess: about half of these pixels are wrong. "
            "Attention can look at the signal."
        ),
        report.paragraph(
            f"{len(results)} networks, each trained for {args.steps} steps on the same scenes, "
            f"seed {args.seed}. Context IoU is the mean intersection over union of these four "
            "classes."
        ),
        report.table(HEADER, [row(result) for result in results]),
    )


def _scene(results: Sequence[Result], scenes: Scenes, index: int, out: Path) -> str:
    """The scene, its true labels, and the labels of each network with their errors."""
    image, mask = scenes.read(index)
    pixels = Image.fromarray(image.permute(1, 2, 0).numpy())  # (H, W, 3)
    save_image(out / "images" / f"{scenes.names[index]}.png", pixels)
    truth = overlay(image, mask, scenes.classes, opacity=0.8)
    figures = [
        report.figure(zoomed(pixels, _WIDTH), f"scene {index}"),
        report.figure(zoomed(truth, _WIDTH), "true labels"),
    ]
    for result in results:
        labels = Predictor(result.model, fast=False)(image).labels
        correct = float((labels == mask).float().mean())
        drawn = zoomed(overlay(image, labels, scenes.classes, opacity=0.8), _WIDTH)
        caption = f"{result.network}: {100 * correct:.0f} % correct"
        figures.append(report.figure(hatched(drawn, labels != mask), caption))
    return report.grid(figures)


def _attention(result: Result, scenes: Scenes, out: Path, example: Example) -> str:
    """The figure of a pixel, and what each block does there."""
    image, mask = scenes.read(example.scene)
    file = out / f"attention_{result.network}.png"
    narrow = file.with_stem(f"{file.stem}_narrow")
    explain_figure(result.model, image, [example.at], narrow, width=PHONE)
    shown = explain_figure(result.model, image, [example.at], file)
    classes = scenes.classes
    sentences = [shown.sentence(name, 0, classes) for name in shown.maps.blocks()]
    text = f"{result.network}, scene {example.scene}: the marked pixel is truly "
    caption = f'{text}"{classes.names[int(mask[example.at])]}".'
    return report.figure(file, " ".join([caption, *sentences]), narrow)


def _curves(results: Sequence[Result]) -> Image.Image:
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(5, 5.6), dpi=120, layout="constrained")  # legible on a phone
    loss, context = drawing.subplots(2, 1)
    for result in results:
        loss.plot(*zip(*result.curve.loss, strict=True), label=result.network, linewidth=1)
        points = zip(*result.curve.context_iou, strict=True)
        context.plot(*points, label=result.network, marker="o")
    loss.set(xlabel="step", ylabel="loss, auxiliary losses included", yscale="log")
    context.set(xlabel="step", ylabel="context IoU", ylim=(0, 1))
    for axes in (loss, context):
        axes.grid(alpha=0.3)
        axes.legend()
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png")
    return Image.open(buffer)
